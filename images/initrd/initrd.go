// Package initrd owns the format of an initial RAM disk: a cpio archive in the "newc" form
// (Documentation/driver-api/early-userspace/buffer-format.rst of Linux), compressed with zstd.
// The same entries give the same bytes.
//
// It must not know what the files are for.
package initrd

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Types of an entry, as in st_mode.
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
	typeChar = 0o020000
)

// Archive collects entries. All belong to root and have one time.
type Archive struct {
	mtime   uint32
	entries []entry
	have    map[string]bool
	err     error
}

type entry struct {
	name         string
	mode         uint32
	data         []byte
	major, minor uint32
}

// New makes an empty archive whose files have the time mtime.
func New(mtime time.Time) *Archive {
	return &Archive{mtime: uint32(mtime.Unix()), have: map[string]bool{}}
}

// File adds a file at a path such as "etc/x"; the directories above are added too.
func (a *Archive) File(name string, perm uint32, data []byte) {
	a.add(entry{name: name, mode: typeFile | perm&0o7777, data: data})
}

// Dir adds a directory.
func (a *Archive) Dir(name string) { a.add(entry{name: name, mode: typeDir | 0o755}) }

// Link adds a symbolic link to target.
func (a *Archive) Link(name, target string) {
	a.add(entry{name: name, mode: typeLink | 0o777, data: []byte(target)})
}

// Char adds a character device.
func (a *Archive) Char(name string, perm, major, minor uint32) {
	a.add(entry{name: name, mode: typeChar | perm&0o7777, major: major, minor: minor})
}

func (a *Archive) add(e entry) {
	if e.name != strings.TrimPrefix(path.Clean("/"+e.name), "/") || e.name == "" {
		a.err = fmt.Errorf("initrd: %q is not a plain path", e.name)
		return
	}
	if a.have[e.name] {
		if e.mode&typeDir == 0 {
			a.err = fmt.Errorf("initrd: %q is there twice", e.name)
		}
		return
	}
	if dir := path.Dir(e.name); dir != "." {
		a.Dir(dir)
	}
	a.have[e.name] = true
	a.entries = append(a.entries, e)
}

// Write writes the archive, compressed. It returns the first mistake of the calls before.
func (a *Archive) Write(w io.Writer) error {
	if a.err != nil {
		return a.err
	}
	// One goroutine: how work is split among several would show in the output.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return fmt.Errorf("compress initrd: %w", err)
	}
	if err := a.writeCPIO(z); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("compress initrd: %w", err)
	}
	return nil
}

const trailer = "TRAILER!!!"

func (a *Archive) writeCPIO(w io.Writer) error {
	sorted := slices.Clone(a.entries)
	// By name, which puts a directory before what is in it.
	slices.SortFunc(sorted, func(x, y entry) int { return strings.Compare(x.name, y.name) })
	var b bytes.Buffer
	for i, e := range append(sorted, entry{name: trailer}) {
		b.Reset()
		links := 1
		if e.mode&typeDir != 0 && e.mode&typeFile != typeFile {
			links = 2
		}
		ino, mtime := i+1, a.mtime
		if e.name == trailer {
			ino, mtime = 0, 0
		}
		// Magic, then 13 numbers of 8 hexadecimal digits: ino, mode, uid, gid, nlink, mtime, size,
		// device, device the file stands for, length of the name with its zero byte, no checksum.
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			ino, e.mode, 0, 0, links, mtime, len(e.data), 0, 0, e.major, e.minor, len(e.name)+1, 0)
		b.WriteString(e.name)
		b.WriteByte(0)
		pad(&b)
		b.Write(e.data)
		pad(&b)
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// pad fills up to a multiple of four bytes.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
