package auto

import (
	"fmt"
	"hash/fnv"
	"os"
)

// hostID names this kernel's run, network namespace, in which abstract sockets have their names, and user, whom both sides of
// such a socket must run as. It is empty, and sharing is off, when the system does not say.
func hostID() string {
	boot, err1 := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, err2 := os.Readlink("/proc/self/ns/net")
	if err1 != nil || err2 != nil {
		return ""
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s\n%s\n%d\n", boot, space, os.Geteuid())
	return fmt.Sprintf("%016x", h.Sum64())
}
