#!/usr/bin/env bash
# What do Go's readers see in an initramfs as the kernel takes it?
# Version: github.com/u-root/u-root v0.16.0, package pkg/cpio; github.com/cavaliergopher/cpio v1.0.1; GNU cpio 2.13+dfsg-7.1.
# Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: archives one after the other, zeros between
#       them; of a file with several links the content comes with the last one.
# Guess: both read all the archives (u-root's is made for an initramfs), and all names of a file have its content.
# Seen: both end at the first archive's trailer: an image that begins with microcode seems to hold nothing else. Of two hard links the
#       first is an empty file for both; u-root unpacks it as one.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q cpio=2.13+dfsg-7.1 && dpkg -x cpio_*.deb root) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
mkdir early rest
echo microcode >early/microcode; echo hello >rest/init; ln rest/init rest/link
(cd early && echo microcode | ../root/bin/cpio -o -H newc --quiet) >image
(cd rest && printf 'init\nlink\n' | ../root/bin/cpio -o -H newc --quiet) >second
cat second >>image
cat >main.go <<'GO'
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cavaliergopher/cpio"
	uroot "github.com/u-root/u-root/pkg/cpio"
)

func main() {
	for _, name := range []string{"image", "second"} {
		f, err := os.Open(name)
		if err != nil {
			panic(err)
		}
		records, err := uroot.ReadAllRecords(uroot.Newc.Reader(f))
		fmt.Print("u-root, ", name, ": error ", err)
		for _, r := range records {
			fmt.Printf(", %s of %d bytes", r.Name, r.FileSize)
		}
		fmt.Println()
		if name == "second" {
			os.Mkdir("out", 0o755)
			for _, r := range records {
				if err := uroot.CreateFileInRoot(r, "out", false); err != nil {
					fmt.Println(err)
				}
			}
			b, err := os.ReadFile("out/init")
			fmt.Printf("unpacked, init holds %q, error %v\n", b, err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			panic(err)
		}
		fmt.Print("cavaliergopher, ", name)
		r := cpio.NewReader(f)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				panic(err)
			}
			fmt.Printf(", %s of %d bytes", h.Name, h.Size)
		}
		fmt.Println()
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/u-root/u-root/pkg/cpio@v0.16.0 github.com/cavaliergopher/cpio@v1.0.1 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .)
want='u-root, image: error <nil>, microcode of 10 bytes
cavaliergopher, image, microcode of 10 bytes
u-root, second: error <nil>, init of 0 bytes, link of 6 bytes
unpacked, init holds "", error <nil>
cavaliergopher, second, init of 0 bytes, link of 6 bytes'
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
