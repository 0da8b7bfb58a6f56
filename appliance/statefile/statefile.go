// Package statefile owns one small file whose content must survive a crash and a
// loss of power: what a voter must not forget. A reader finds the newest content
// that Save has returned for, or the one before it, whole; one that was damaged since
// is refused. Room for the next content is kept beside it, so that a disk that fills
// up does not keep Save from working, and Check tells whether it still would.
//
// It must not know what the content says.
package statefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxSize is the largest content, bytes.
const maxSize = 1 << 20

// The file: a mark, the content's length, a CRC-32C of all but itself, the content;
// what follows is room. A file without the mark was written by a build before it had
// one and is all content.
const (
	mark      = "LSF2"
	headerLen = len(mark) + 4 + 4
	// reserve is the least room that is kept, bytes; a voter's content has some hundred.
	reserve = 16 << 10
)

// File is a state file that this process alone may use.
type File struct {
	path string
	lock *os.File   // holds the lock as long as it is open
	mu   sync.Mutex // orders Save and Check
}

func encode(content []byte) []byte {
	b := append(make([]byte, 0, headerLen+len(content)), mark...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	b = binary.BigEndian.AppendUint32(b, checksum(b, content))
	return append(b, content...)
}

func checksum(head, content []byte) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, t, head[:len(mark)+4]), t, content)
}

// decode reports false for what Save has not written.
func decode(file []byte) (content []byte, ok bool) {
	if len(file) < headerLen {
		return nil, false
	}
	n := binary.BigEndian.Uint32(file[len(mark):])
	if uint64(n) > uint64(len(file)-headerLen) {
		return nil, false
	}
	content = file[headerLen : headerLen+int(n)]
	return content, binary.BigEndian.Uint32(file[len(mark)+4:]) == checksum(file, content)
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
	f := &File{path: path, lock: lock}
	// Without room, Save may still work, and Check tells.
	_ = f.write(nil, false)
	return f, nil
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
	case info.Size() > int64(headerLen+maxSize):
		return nil, fmt.Errorf("state file %q has %d bytes, at most %d are written: it is something else (move it away)", f.path, info.Size(), maxSize)
	}
	content, err := io.ReadAll(io.LimitReader(file, int64(headerLen+maxSize)))
	if err != nil {
		return nil, fmt.Errorf("read state file %q: %w", f.path, err)
	}
	if !bytes.HasPrefix(content, []byte(mark)) {
		return content, nil
	}
	content, ok := decode(content)
	if !ok {
		return nil, fmt.Errorf("state file %q is damaged: its checksum does not match (look at the disk, then move the file away: whoever it belongs to starts as one that has lost its memory)", f.path)
	}
	return content, nil
}

// Save replaces the content. When it returns without an error the new content is
// on the disk, under the file's name; after an error either the old or the new one
// is there.
func (f *File) Save(content []byte) error {
	if len(content) > maxSize {
		return fmt.Errorf("write state file %q: %d bytes, at most %d", f.path, len(content), maxSize)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.replace(content); err != nil {
		return fmt.Errorf("write state file: %w (look at free space and permissions of %q)", err, filepath.Dir(f.path))
	}
	return nil
}

// Check tells whether Save would work now: it writes where Save would, and goes no
// further.
func (f *File) Check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write(encode([]byte("check")), true); err != nil {
		return fmt.Errorf("state cannot be written: %w (look at free space and permissions of %q)", err, filepath.Dir(f.path))
	}
	return nil
}

// replace writes beside the file and moves it into place, atomically; the directory
// must be synced too for the name to last. The file that was there becomes the room
// for the next content: nothing is given back to a disk that may be full then.
func (f *File) replace(content []byte) error {
	if err := f.write(encode(content), true); err != nil {
		return err
	}
	next := f.path + ".new"
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, f.path, unix.RENAME_EXCHANGE)
	if err != nil { // nothing was there, or the file system cannot exchange
		if err := os.Rename(next, f.path); err != nil {
			return err
		}
		_ = f.write(nil, false) // room; without it Check tells
	}
	return syncDir(filepath.Dir(f.path))
}

// write puts b into the file beside ours, whose room it keeps or makes.
func (f *File) write(b []byte, sync bool) error {
	file, err := os.OpenFile(f.path+".new", os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = makeRoom(file, max(reserve, int64(len(b))))
	if err == nil {
		_, err = file.WriteAt(b, 0)
	}
	if err == nil && sync {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// makeRoom takes the disk space of size bytes.
func makeRoom(file *os.File, size int64) error {
	info, err := file.Stat()
	if err != nil || info.Size() >= size && info.Size() <= int64(headerLen+maxSize) {
		return err
	}
	if err := file.Truncate(0); err != nil {
		return err
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		_, err = file.WriteAt(make([]byte, size), 0)
	}
	if err != nil {
		return fmt.Errorf("take %d bytes for %q: %w", size, file.Name(), err)
	}
	return nil
}
