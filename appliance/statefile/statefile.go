// Package statefile owns one small file whose content must survive a crash and a
// loss of power: what a voter must not forget. A reader finds the newest content
// that Save has returned for, or the one before it, whole.
//
// It must not know what the content says.
package statefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MaxSize is the largest content, bytes.
const MaxSize = 1 << 20

// File is a state file that this process alone may use.
type File struct {
	path string
	lock *os.File // holds the lock as long as it is open
}

// Open takes the file at path for this process; its directory is created if
// missing. The file itself need not exist. A second process, such as another
// witness with the same directory, gets an error: two voters with one memory would
// both keep the promises of one.
func Open(path string) (*File, error) {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("create state directory %q: %w (create it for the user that lockstep runs as, or configure another one)", dir, err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of state file: %w (the directory %q must be writable for the user that lockstep runs as)", err, dir)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state file %q is in use by another process (stop it, or give each its own state directory)", path)
		}
		return nil, fmt.Errorf("lock state file %q: %w (the state directory must be on a local file system)", path, err)
	}
	return &File{path: path, lock: lock}, nil
}

// makeDir creates dir and what is missing above it, so that it lasts.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%q is no directory", dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err // there, or not to be looked at
	}
	above := filepath.Dir(dir)
	if err := makeDir(above); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(above)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Close gives the file free for another process.
func (f *File) Close() error { return f.lock.Close() }

// Path is where the file is.
func (f *File) Path() string { return f.path }

// Load reads the content; nil if nothing was saved yet.
func (f *File) Load() ([]byte, error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open state file: %w (it must be readable for the user that lockstep runs as, and no link)", err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("look at state file %q: %w", f.path, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("state file %q is no file but %v (move it away)", f.path, info.Mode().Type())
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("state file %q has mode %04o: others can change it (chmod 600 it if nobody has)", f.path, info.Mode().Perm())
	case info.Size() > MaxSize:
		return nil, fmt.Errorf("state file %q has %d bytes, at most %d are written: it is something else (move it away)", f.path, info.Size(), MaxSize)
	}
	content, err := io.ReadAll(io.LimitReader(file, MaxSize))
	if err != nil {
		return nil, fmt.Errorf("read state file %q: %w", f.path, err)
	}
	return content, nil
}

// Save replaces the content. When it returns without an error the new content is
// on the disk, under the file's name; after an error either the old or the new one
// is there.
func (f *File) Save(content []byte) error {
	if len(content) > MaxSize {
		return fmt.Errorf("write state file %q: %d bytes, at most %d", f.path, len(content), MaxSize)
	}
	if err := f.replace(content); err != nil {
		return fmt.Errorf("write state file: %w (look at free space and permissions of %q)", err, filepath.Dir(f.path))
	}
	return nil
}

// replace writes beside the file and moves it into place: rename(2) is atomic, and
// the directory must be synced too for the name to last.
func (f *File) replace(content []byte) error {
	next := f.path + ".new"
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(next, f.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.path))
}
