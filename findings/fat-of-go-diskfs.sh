#!/usr/bin/env bash
# Is a FAT32 file system by go-diskfs one to others?
# Versions: github.com/diskfs/go-diskfs v1.9.4; Debian 12: dosfstools 4.2-1, mtools 4.0.33-1+really4.0.32-1.
# Guess: yes; at worst a warning.
# Seen: the file allocation table has two entries fewer than the volume has clusters (129022 for 129024 in 64 MiB: the two reserved
#       entries are not counted). fsck.fat calls that fatal, mtools does not open it, although the library reads its own files back.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (apt-get)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
(chmod 777 . && apt-get download -q dosfstools mtools && for d in *.deb; do dpkg -x "$d" root || exit 1; done) >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
cat >main.go <<'GO'
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	d, err := diskfs.Create("fat.img", 64<<20, diskfs.SectorSizeDefault)
	check(err)
	fs, err := d.CreateFilesystem(disk.FilesystemSpec{FSType: filesystem.TypeFat32, VolumeLabel: "DATA"})
	check(err)
	f, err := fs.OpenFile("/file.txt", os.O_CREATE|os.O_RDWR)
	check(err)
	_, err = f.Write([]byte("hello"))
	check(err)
	check(f.Close())
	f, err = fs.OpenFile("/file.txt", os.O_RDONLY)
	check(err)
	b, err := io.ReadAll(f)
	check(err)
	fmt.Printf("go-diskfs reads %q\n", b)
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/diskfs/go-diskfs@v1.9.4 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
got=$(go run .
root/sbin/fsck.fat -n fat.img 2>&1 | grep -E 'clusters|Too few' | sed 's/^ *//' || true
root/usr/bin/mdir -i fat.img :: >/dev/null 2>&1 && echo "mtools opens it" || echo "mtools refuses it")
echo "$got"
want='go-diskfs reads "hello"
Filesystem has 129024 clusters but only space for 129022 FAT entries.
mtools refuses it'
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
