package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"lockstep/internal/lab"
	"lockstep/internal/realservers"
)

// rsync copies a tree of many small files from its daemon.
func rsync() suite {
	return suite{
		name: "rsync", says: "rsync of many files from its daemon, compared by SHA-256", port: 873,
		programs: []string{"rsync:rsync"}, prepare: prepareRsync, play: playRsync,
	}
}

const (
	filesPerDir = 250
	largestFile = 16 << 10 // bytes
)

func prepareRsync(ctx context.Context, r *runner, dir string) error {
	tree := filepath.Join(dir, "tree")
	rng := rand.NewChaCha8([32]byte{1})
	sizes := rand.New(rng)
	buf := make([]byte, largestFile)
	for i := range r.opts.files {
		sub := filepath.Join(tree, fmt.Sprintf("%03d", i/filesPerDir))
		if i%filesPerDir == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		b := buf[:sizes.IntN(largestFile)]
		_, _ = rng.Read(b)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%06d", i)), b, 0o644); err != nil {
			return err
		}
	}
	s, err := realservers.Rsync(tree, dir)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "rsync", "--version").Output(); err == nil {
		r.version = strings.Join(strings.Fields(string(out))[2:3], "")
	}
	_, err = s.Start(ctx, r.server(), filepath.Join(dir, "rsyncd.log"))
	return err
}

// playRsync copies everything once; the copy is compared, and removed.
func playRsync(ctx context.Context, _ *runner, host *lab.Host, address, dir string) (results, error) {
	copied := filepath.Join(dir, "copy")
	defer os.RemoveAll(copied)
	out, err := program(ctx, host, dir, "rsync", lab.Command{Path: "rsync", Args: []string{"-a", "--whole-file", "--stats", "--bwlimit=" + rsyncRate, "rsync://" + address + "/files/", copied}})
	if err != nil {
		return nil, err
	}
	got := results{}
	err = filepath.WalkDir(copied, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		name, _ := filepath.Rel(copied, path)
		got[name] = fmt.Sprintf("%x", h.Sum(nil))
		return nil
	})
	if strings.Contains(out, "rsync error") {
		got["exit"] = tail(out)
	}
	return got, err
}

// rsyncRate slows the copy down so that it takes some failovers, KiB a second.
const rsyncRate = "8000"
