//go:build !linux

package sandbox

import "syscall"

// apart has no meaning elsewhere: lookAtMachine refuses to go on long before.
func apart() *syscall.SysProcAttr { return nil }
