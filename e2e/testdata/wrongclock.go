// The server of fault_clock_test.go, with a wall clock that the test sets: this file is added to
// package main in its build, see clock_test.go. Go reads the clock without a system call, so nothing
// outside of a process can do that to it; and all libraries are to see the same wrong time. So the
// code of time.Now is overwritten by a jump to wrongNow before main begins. The monotonic clock stays
// right, as it does where an operator or NTP sets the wall clock.
package main

import (
	"encoding/binary"
	"os"
	"reflect"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

var (
	clockBase = time.Now()
	// clockFile is mapped: by how much the clock is ahead, and how much it jitters around that, in ns.
	clockFile = mapClock(os.Getenv("WRONG_CLOCK"))
	_         = redirect(reflect.ValueOf(time.Now).Pointer(), reflect.ValueOf(wrongNow).Pointer())
)

func wrongNow() time.Time {
	elapsed := time.Since(clockBase) // by the monotonic clock alone
	now := clockBase.Add(elapsed)
	ahead, jitter := *(*int64)(unsafe.Pointer(&clockFile[0])), *(*int64)(unsafe.Pointer(&clockFile[8]))
	if jitter > 0 {
		ahead += int64(uint64(elapsed)*0x9E3779B97F4A7C15>>11)%(2*jitter) - jitter
	}
	// time.Time holds, beside the monotonic reading: a flag for it, 33 bits of seconds, 30 of nanoseconds.
	wall := (*uint64)(unsafe.Pointer(&now))
	all := int64(*wall<<1>>31)*1e9 + int64(*wall&(1<<30-1)) + ahead
	*wall = 1<<63 | uint64(all/1e9)<<30 | uint64(all%1e9)
	return now
}

func mapClock(name string) []byte {
	file, err := os.Open(name)
	if err != nil {
		panic(err)
	}
	mapped, err := syscall.Mmap(int(file.Fd()), 0, 16, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return mapped
}

// redirect overwrites the beginning of a function by a jump to another of the same type.
func redirect(from, to uintptr) bool {
	var jump []byte
	switch runtime.GOARCH {
	case "amd64": // mov rdx, to; jmp rdx
		jump = append(binary.LittleEndian.AppendUint64([]byte{0x48, 0xBA}, uint64(to)), 0xFF, 0xE2)
	case "arm64": // ldr x16, .+8; br x16; to
		jump = binary.LittleEndian.AppendUint64([]byte{0x50, 0x00, 0x00, 0x58, 0x00, 0x02, 0x1F, 0xD6}, uint64(to))
	default:
		panic("no jump for " + runtime.GOARCH)
	}
	page := uintptr(syscall.Getpagesize())
	first := from &^ (page - 1)
	length := (from + uintptr(len(jump)) - first + page - 1) &^ (page - 1)
	pages := unsafe.Slice((*byte)(unsafe.Pointer(first)), length)
	if err := syscall.Mprotect(pages, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC); err != nil {
		panic(err)
	}
	copy(pages[from-first:], jump)
	if err := syscall.Mprotect(pages, syscall.PROT_READ|syscall.PROT_EXEC); err != nil {
		panic(err)
	}
	return true
}
