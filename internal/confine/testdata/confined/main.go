// Confined is what the test of package confine runs: it gives up its rights, then
// prints what each of its threads has left.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"lockstep/internal/confine"
)

func main() {
	hold, held := make(chan struct{}), make(chan struct{})
	for range 4 { // threads of their own, made before
		go func() { runtime.LockOSThread(); held <- struct{}{}; <-hold }()
		<-held
	}
	if err := confine.Keep(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	threads, _ := filepath.Glob("/proc/self/task/*/status")
	for _, name := range threads {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
				fmt.Print(line)
			}
		}
	}
	fmt.Println("threads", len(threads))
	if unix.Mount("none", "/mnt", "tmpfs", 0, "") == nil {
		fmt.Println("it may still mount")
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	fmt.Println("packet socket:", s >= 0, err)
}
