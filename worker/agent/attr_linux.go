package agent

import "syscall"

// workerAttr puts a worker into a process group of its own, so that a terminal's Ctrl-C reaches the launcher alone,
// and lets it die with the agent.
func workerAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
