//go:build !linux

package main

import "syscall"

// dieWithParent keeps the terminal's Ctrl-C from the child, which is stopped from here.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
