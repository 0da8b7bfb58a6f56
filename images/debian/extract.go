package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"
)

// maxFile and maxTotal bound what is taken out of a package, bytes.
const (
	maxFile  = 256 << 20
	maxTotal = 1 << 30
)

// Files reads the files of a .deb for which want says yes, by their paths from the root
// ("boot/vmlinuz-6.12"). Links are passed over. dpkg-deb unpacks: it is on every machine that has apt.
func Files(ctx context.Context, deb string, want func(name string) bool) (map[string][]byte, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("unpack %q: %w", deb, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("unpack %q: %w", deb, err)
	}
	files, readErr := readTar(out, want)
	_, _ = io.Copy(io.Discard, out) // what follows the end mark; dpkg-deb must not get SIGPIPE
	if err := errors.Join(readErr, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("unpack %q: %w %s", deb, err, strings.TrimSpace(complaint.String()))
	}
	return files, nil
}

func readTar(r io.Reader, want func(string) bool) (map[string][]byte, error) {
	files, total := map[string][]byte{}, int64(0)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeReg || !want(name) {
			continue
		}
		if total += h.Size; h.Size > maxFile || total > maxTotal {
			return nil, fmt.Errorf("%s: files are larger than %d bytes, or %d in all", name, maxFile, maxTotal)
		}
		if files[name], err = io.ReadAll(t); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
}
