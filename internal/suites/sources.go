package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// aptList is where Debian's sources are; the release is that of the installed packages.
const aptList = "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %[1]s main\n" +
	"deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security %[1]s-security main\n"

// debianSource is the unpacked source package of an installed package, of the same version. It is
// fetched once.
func debianSource(ctx context.Context, cache, binary, source string) (dir, version string, err error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", binary).Output()
	if err != nil {
		return "", "", fmt.Errorf("which version of %s is installed: %w (hint: apt-get install %s)", binary, err, binary)
	}
	version = string(out)
	dir = filepath.Join(cache, source+"-"+strings.ReplaceAll(version, ":", "_"))
	if _, err := os.Stat(filepath.Join(dir, "debian")); err == nil {
		return dir, version, nil
	}
	apt, err := aptSources(ctx, cache)
	if err != nil {
		return "", "", err
	}
	say("fetching the source of %s %s", source, version)
	if err := run(ctx, cache, "apt-get", append(apt, "source", "-q", "--download-only", source+"="+version)...); err != nil {
		return "", "", err
	}
	_, plain, found := strings.Cut(version, ":")
	if !found {
		plain = version
	}
	unpacked := dir + ".part"
	if err := os.RemoveAll(unpacked); err != nil {
		return "", "", err
	}
	if err := run(ctx, cache, "dpkg-source", "-x", source+"_"+plain+".dsc", unpacked); err != nil {
		return "", "", err
	}
	return dir, version, os.Rename(unpacked, dir)
}

// aptSources updates a list of source packages of our own and returns apt-get's options for it: the
// machine's lists stay as they are.
func aptSources(ctx context.Context, cache string) ([]string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return nil, err
	}
	_, name, found := strings.Cut(string(release), "VERSION_CODENAME=")
	if !found {
		return nil, errors.New("/etc/os-release names no release of Debian")
	}
	name, _, _ = strings.Cut(name, "\n")
	lists := filepath.Join(cache, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return nil, err
	}
	list := filepath.Join(cache, "sources.list")
	if err := os.WriteFile(list, fmt.Appendf(nil, aptList, strings.TrimSpace(name)), 0o644); err != nil {
		return nil, err
	}
	apt := []string{"-o", "Dir::Etc::SourceList=" + list, "-o", "Dir::Etc::SourceParts=/dev/null", "-o", "Dir::State::Lists=" + lists,
		"-o", "Dir::Cache::srcpkgcache=", "-o", "Dir::Cache::pkgcache=", "-o", "APT::Sandbox::User=root"}
	return apt, run(ctx, cache, "apt-get", append(apt, "update", "-q")...)
}

// debianFiles unpacks a binary package of a version without installing it.
func debianFiles(ctx context.Context, cache, name, version string) (dir string, err error) {
	dir = filepath.Join(cache, name+"-"+strings.ReplaceAll(version, ":", "_"))
	if _, err := os.Stat(filepath.Join(dir, "usr")); err == nil {
		return dir, nil
	}
	if err := run(ctx, cache, "apt-get", "-o", "APT::Sandbox::User=root", "download", "-q", name+"="+version); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(cache, name+"_*.deb"))
	if err != nil || len(debs) == 0 {
		return "", fmt.Errorf("apt-get has left no package %s in %s", name, cache)
	}
	return dir, run(ctx, cache, "dpkg", "-x", debs[len(debs)-1], dir)
}

// goTool builds a command of a Go module at a version.
func goTool(ctx context.Context, cache, path, version string) (string, error) {
	bin := filepath.Join(cache, "bin-"+strings.ReplaceAll(version, "+", "-"))
	tool := filepath.Join(bin, filepath.Base(path))
	if _, err := os.Stat(tool); err == nil {
		return tool, nil
	}
	say("building %s %s", path, version)
	cmd := exec.CommandContext(ctx, "go", "install", path+"@"+version)
	cmd.Dir = cache
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s@%s: %w\n%s", path, version, err, out)
	}
	return tool, nil
}

// run a program in dir; what it prints is shown if it fails.
func run(ctx context.Context, dir, name string, args ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
