//go:build unix && !linux

package agent

import "syscall"

// workerAttr puts a worker into a process group of its own. Only Linux can make it die with the agent.
func workerAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
