package lab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Disk mounts an empty file system of so many bytes on a directory, which is made if need be. Only
// the host's processes see it; it goes with the host.
func (h *Host) Disk(dir string, bytes int64) error {
	if bytes < 1 {
		return fmt.Errorf("host %q: disk of %d bytes", h.name, bytes)
	}
	err := h.space.do(func() error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		return unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=700", bytes))
	})
	if err != nil {
		return fmt.Errorf("host %q: disk on %q: %w", h.name, dir, err)
	}
	return nil
}

// OnDisk runs fn where the host's mounts are seen. Calls are serialised with everything that begins
// on this host: fn must be short.
func (h *Host) OnDisk(fn func() error) error {
	if err := h.space.do(fn); err != nil {
		return fmt.Errorf("host %q: %w", h.name, err)
	}
	return nil
}
