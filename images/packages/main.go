// Command packages builds the packages for Debian and for RPM's distributions, and the container
// images, out of the program: what `make packages` calls. It owns what is made of the program for them
// (manual pages, completions), what they are called, and what a container is given; nfpm and package
// oci know the formats, and nfpm.yaml what goes where in a package.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	program string // the lockstep binary
	out     string
	version string // as `lockstep --version` has it
	formats string
	epoch   time.Time
	// maintainer is whom to write to, NAME <ADDRESS>.
	maintainer string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("packages", flag.ContinueOnError)
	f.StringVar(&o.program, "program", "bin/packages/lockstep", "the program that the packages are of")
	f.StringVar(&o.out, "out", "bin/packages", "directory to write to")
	f.StringVar(&o.version, "version", "devel", "the version's name")
	f.StringVar(&o.maintainer, "maintainer", "Lockstep maintainers <maintainers@lockstep.example>", "whom to write to")
	f.StringVar(&o.formats, "formats", "deb,rpm", "what to build, separated by commas")
	if err := f.Parse(args); err != nil {
		return err
	}
	// The time that all files get (reproducible-builds.org).
	seconds, err := strconv.ParseUint(os.Getenv("SOURCE_DATE_EPOCH"), 10, 32)
	if err != nil {
		return errors.New("SOURCE_DATE_EPOCH is not set to a number of seconds since 1970 (`make packages` sets it to the time of the commit)")
	}
	o.epoch = time.Unix(int64(seconds), 0).UTC()
	return build(ctx, o)
}

// build stages what is made of the program, and has a package of each format made of it.
func build(ctx context.Context, o options) error {
	stage, err := os.MkdirTemp("", "lockstep-packages-")
	if err != nil {
		return fmt.Errorf("make a directory for what goes into the packages: %w", err)
	}
	defer os.RemoveAll(stage)
	version := packageVersion(o.version)
	if err := fill(ctx, stage, version, o); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("create output directory: %w", err)
	}
	for _, format := range strings.Split(o.formats, ",") {
		nfpm := exec.CommandContext(ctx, "go", "tool", "-modfile=tools/go.mod", "nfpm", "package",
			"--config", "images/packages/nfpm.yaml", "--packager", format, "--target", o.out)
		nfpm.Env = append(os.Environ(), "STAGE="+stage, "VERSION="+version, "ARCH="+runtime.GOARCH,
			"MAINTAINER="+o.maintainer, "CGO_ENABLED=0")
		if text, err := nfpm.CombinedOutput(); err != nil {
			return fmt.Errorf("nfpm makes a package for %s: %w\n%s", format, err, text)
		}
	}
	return images(o)
}

// fill makes what the packages have beside the repository's own files.
func fill(ctx context.Context, stage, version string, o options) error {
	program, err := os.ReadFile(o.program)
	if err != nil {
		return fmt.Errorf("read the program: %w (`make packages` builds it)", err)
	}
	if err := os.WriteFile(filepath.Join(stage, "lockstep"), program, 0o755); err != nil {
		return fmt.Errorf("copy the program: %w", err)
	}
	man := filepath.Join(stage, "man")
	if _, err := ask(ctx, o.program, "manual", "--out", man); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(man, "*.8"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		// How completions are installed by hand is no use to whoever has the package.
		if !strings.Contains(page, "completion") {
			text, err := os.ReadFile(page)
			if err != nil {
				return fmt.Errorf("read a manual page: %w", err)
			}
			if err := compress(page+".gz", text); err != nil {
				return err
			}
			// Of a whole directory nfpm takes the files' own times.
			if err := os.Chtimes(page+".gz", o.epoch, o.epoch); err != nil {
				return fmt.Errorf("set the time of a manual page: %w", err)
			}
		}
		if err := os.Remove(page); err != nil {
			return fmt.Errorf("remove the manual page that is compressed: %w", err)
		}
	}
	if err := documents(stage, o.epoch); err != nil {
		return err
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := ask(ctx, o.program, "completion", shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(stage, "lockstep."+shell), script, 0o644); err != nil {
			return fmt.Errorf("write the completion for %s: %w", shell, err)
		}
	}
	return compress(filepath.Join(stage, "changelog.gz"), []byte(changelog(version, o)))
}

// documents copies what a user reads, as it stands in the repository, so that the links lead on.
func documents(stage string, epoch time.Time) error {
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		return err
	}
	decisions, err := filepath.Glob("docs/decisions/*.md")
	if err != nil {
		return err
	}
	files = append(append(files, decisions...), "README.md", "SAFETY.md", "ARCHITECTURE.md", "BENCH.md", "CHANGELOG.md")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read a document: %w", err)
		}
		to := filepath.Join(stage, "doc", name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("make the documents' directory: %w", err)
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return fmt.Errorf("copy a document: %w", err)
		}
		if err := os.Chtimes(to, epoch, epoch); err != nil {
			return fmt.Errorf("set the time of a document: %w", err)
		}
	}
	return nil
}

// ask runs the program and returns what it prints.
func ask(ctx context.Context, program string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return nil, fmt.Errorf("run %s %s: %w", program, strings.Join(args, " "), err)
	}
	return out, nil
}

// compress writes a file as Debian wants it (policy, 12.1 and 12.7): no name and no time in it.
func compress(path string, text []byte) error {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write a compressed file: %w", err)
	}
	return nil
}

// changelog is Debian's: of one entry, which leads to ours.
func changelog(version string, o options) string {
	return fmt.Sprintf(`lockstep (%s) stable; urgency=medium

  * See CHANGELOG.md in the source of this version.

 -- %s  %s
`, version, o.maintainer, o.epoch.Format(time.RFC1123Z))
}

// candidate is how the name of a version begins that comes before the release it is named after.
var candidate = regexp.MustCompile(`^(alpha|beta|pre|rc)\b`)

// packageVersion makes of a version's name one that Debian and RPM sort as it is meant: a candidate comes before
// its release, and what is built between two releases after the first and before the second.
func packageVersion(name string) string {
	version, rest, later := strings.Cut(strings.TrimPrefix(name, "v"), "-")
	if later && candidate.MatchString(rest) {
		var of string
		of, rest, later = strings.Cut(rest, "-")
		version += "~" + of
	}
	if later {
		version += "+" + strings.ReplaceAll(rest, "-", ".")
	}
	return version
}
