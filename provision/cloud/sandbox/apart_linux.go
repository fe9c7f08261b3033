package sandbox

import "syscall"

// apart gives a process namespaces of its own for mounts and processes, and lets it die with its parent.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
}
