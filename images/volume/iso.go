package volume

import (
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

const (
	isoBlock = 2048
	isoSize  = 8 << 20 // what may be written at most, bytes; the file is as long as its content
)

// WriteISO writes the tree as a NoCloud volume: an ISO 9660 file system called cidata, with Rock
// Ridge for the names. It holds a key, so only its owner may read it. What was at the path is
// replaced, at the end and as a whole.
func WriteISO(target string, t Tree) error {
	work, err := os.MkdirTemp(filepath.Dir(target), ".volume-")
	if err != nil {
		return fmt.Errorf("write volume %q: %w", target, err)
	}
	defer os.RemoveAll(work)
	next := filepath.Join(work, "iso")
	if err := writeISO(next, filepath.Join(work, "files"), t); err != nil {
		return fmt.Errorf("write volume %q: %w", target, err)
	}
	if err := os.Chmod(next, 0o600); err != nil {
		return fmt.Errorf("write volume %q: %w", target, err)
	}
	if err := os.Rename(next, target); err != nil {
		return fmt.Errorf("write volume %q: %w", target, err)
	}
	return nil
}

func writeISO(target, files string, t Tree) error {
	if err := os.Mkdir(files, 0o700); err != nil {
		return err
	}
	storage, err := file.CreateFromPath(target, isoSize)
	if err != nil {
		return err
	}
	defer storage.Close()
	iso, err := iso9660.Create(storage, isoSize, 0, isoBlock, files)
	if err != nil {
		return err
	}
	for _, name := range t.Names() {
		at := filepath.Join(files, filepath.FromSlash(path.Clean("/"+name)))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(at, t[name], 0o600); err != nil {
			return err
		}
	}
	if err := iso.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: ConfigLabel}); err != nil {
		return err
	}
	return trim(target)
}

// trim cuts the file to what the volume says it has: its size in blocks is in the primary volume
// descriptor (ECMA-119, 8.4.8).
func trim(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := block(f, 16*isoBlock+80, 4)
	if err != nil {
		return err
	}
	return f.Truncate(int64(binary.LittleEndian.Uint32(b)) * isoBlock)
}
