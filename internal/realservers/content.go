package realservers

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lockstep/internal/lab/traffic"
)

// modified is the time of every served file: the servers' copies must have the same, since ETag
// and Last-Modified are made of it.
var modified = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

// piece is how much of a file is made or compared at once, bytes.
const piece = 256 << 10

// File is served content: Size bytes of a pattern, from which each byte's place can be told.
type File struct {
	Name string
	Size int64
}

// Pattern of the file's bytes, made of its name.
func (f File) Pattern() traffic.Pattern {
	var p traffic.Pattern
	for _, c := range f.Name {
		p = p*131 + traffic.Pattern(c)
	}
	return p
}

// Create writes the file into dir.
func (f File) Create(dir string) (err error) {
	path := filepath.Join(dir, f.Name)
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(), os.Chtimes(path, modified, modified)) }()
	buf := make([]byte, piece)
	for off := int64(0); off < f.Size; off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), f.Size-off)]
		f.Pattern().Fill(b, uint64(off))
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// Check compares path with the file's bytes from offset from up to to.
func (f File) Check(path string, from, to int64) error {
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	switch st, err := r.Stat(); {
	case err != nil:
		return err
	case st.Size() != to-from:
		return fmt.Errorf("%s of %s has %d bytes, not %d", path, f.Name, st.Size(), to-from)
	}
	buf := make([]byte, piece)
	for off := from; off < to; {
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), to-off)])
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if i := f.Pattern().Verify(buf[:n], uint64(off)); i >= 0 {
			return fmt.Errorf("%s of %s: the byte at %d is wrong", path, f.Name, off+int64(i))
		}
		off += int64(n)
	}
	return nil
}

// write fills in a configuration file; replace are pairs of a word and what stands in its place.
func write(path, text string, mode os.FileMode, replace ...string) error {
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(text)), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}
