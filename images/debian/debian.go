// Package debian owns which Debian packages an image is made of: the lock file that pins them by
// hash, how they are fetched with apt, and how files are taken out of them without installing
// anything.
//
// It must not know what the files are for.
package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Package is one locked package.
type Package struct {
	Name    string `yaml:"package"`
	Version string `yaml:"version"`
	SHA256  string `yaml:"sha256"` // of the .deb file, hexadecimal
	// Follows is the meta-package through which a newer Name is found; empty: Name itself lasts.
	Follows string `yaml:"follows,omitempty"`
}

// Lock names the packages by what they are used as.
type Lock struct {
	Kernel Package `yaml:"kernel"`
	Stub   Package `yaml:"stub"`
}

const lockHeader = `# The Debian packages that the image is made of, pinned by the hash of their files.
# Debian removes a version some time after it has a newer one: ` + "`make image-lock`" + ` writes this file
# anew with what it has now. Look at the change, build, test, commit.
`

// maxLock bounds the lock file, bytes.
const maxLock = 64 << 10

// ReadLock reads and checks a lock file.
func ReadLock(path string) (Lock, error) {
	var l Lock
	data, err := os.ReadFile(path)
	if err != nil {
		return l, fmt.Errorf("read lock of Debian packages: %w", err)
	}
	if len(data) > maxLock {
		return l, fmt.Errorf("read lock of Debian packages %q: larger than %d bytes", path, maxLock)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&l); err != nil {
		return l, fmt.Errorf("read lock of Debian packages %q: %w", path, err)
	}
	for what, p := range map[string]Package{"kernel": l.Kernel, "stub": l.Stub} {
		if err := p.check(); err != nil {
			return l, fmt.Errorf("lock of Debian packages %q: %s: %w", path, what, err)
		}
	}
	return l, nil
}

// Write writes the lock file.
func (l Lock) Write(path string) error {
	body, err := yaml.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode lock of Debian packages: %w", err)
	}
	if err := os.WriteFile(path, append([]byte(lockHeader), body...), 0o644); err != nil {
		return fmt.Errorf("write lock of Debian packages: %w", err)
	}
	return nil
}

// What Debian's policy (5.6.1, 5.6.12) allows in names and versions: nothing that a command line
// or a file name could take for something else.
var (
	nameOK    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)
	versionOK = regexp.MustCompile(`^[0-9][A-Za-z0-9.+:~-]{0,127}$`)
)

func (p Package) check() error {
	sum, err := hex.DecodeString(p.SHA256)
	switch {
	case !nameOK.MatchString(p.Name):
		return fmt.Errorf("%q is not a package's name", p.Name)
	case !versionOK.MatchString(p.Version):
		return fmt.Errorf("%q is not a version", p.Version)
	case err != nil || len(sum) != sha256.Size:
		return fmt.Errorf("%q is not a SHA-256 hash in hexadecimal", p.SHA256)
	}
	return nil
}

// Fetch returns the path of the package's file in the directory cache, and asks apt for it if it
// is not there yet.
func Fetch(ctx context.Context, p Package, cache string) (string, error) {
	if err := p.check(); err != nil {
		return "", err
	}
	target := filepath.Join(cache, p.SHA256+".deb")
	switch sum, err := hashFile(target); {
	case err == nil && sum == p.SHA256:
		return target, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("look at cached package: %w", err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("create package cache: %w", err)
	}
	dir, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("create directory to fetch to: %w", err)
	}
	defer os.RemoveAll(dir)
	// As root apt drops to its own user, who cannot write here, and warns: nothing is lost by it.
	cmd := exec.CommandContext(ctx, "apt-get", "download", "-q", p.Name+"="+p.Version)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch %s %s: %w\n%s\n(`apt-get update` may be needed first; if Debian has replaced this version, `make image-lock` pins the one it has now)",
			p.Name, p.Version, err, strings.TrimSpace(string(out)))
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("fetch %s %s: apt-get download left %d files, want one", p.Name, p.Version, len(files))
	}
	sum, err := hashFile(files[0])
	if err != nil {
		return "", fmt.Errorf("hash fetched package: %w", err)
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("%s %s has the hash %s, and %s is locked: it is another file, and not used (if Debian has built it anew, `make image-lock` pins that)",
			p.Name, p.Version, sum, p.SHA256)
	}
	if err := os.Rename(files[0], target); err != nil {
		return "", fmt.Errorf("keep fetched package: %w", err)
	}
	return target, nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Resolve returns the package as Debian has it now. Its hash comes from apt's index, which is signed.
func Resolve(ctx context.Context, p Package) (Package, error) {
	name := p.Name
	if p.Follows != "" {
		fields, err := show(ctx, p.Follows)
		if err != nil {
			return p, err
		}
		// "linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1~deb12u1)"
		if name, _, _ = strings.Cut(fields["Depends"], " "); name == "" {
			return p, fmt.Errorf("resolve %s: it depends on nothing", p.Follows)
		}
	}
	fields, err := show(ctx, name)
	if err != nil {
		return p, err
	}
	out := Package{Name: name, Version: fields["Version"], SHA256: fields["SHA256"], Follows: p.Follows}
	if err := out.check(); err != nil {
		return p, fmt.Errorf("resolve %s: %w", name, err)
	}
	return out, nil
}

// show returns the fields that apt's index has of a package's newest version.
func show(ctx context.Context, name string) (map[string]string, error) {
	if !nameOK.MatchString(name) {
		return nil, fmt.Errorf("%q is not a package's name", name)
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "show", "--no-all-versions", name).Output()
	if err != nil {
		return nil, fmt.Errorf("look up package %s: %w (`apt-get update` may be needed first)", name, err)
	}
	return parseFields(string(out)), nil
}

// parseFields reads the first paragraph of a control file (Debian policy, 5.1); of a folded field
// its first line.
func parseFields(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			break
		}
		if name, value, ok := strings.Cut(line, ":"); ok && line[0] != ' ' && line[0] != '\t' {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}
