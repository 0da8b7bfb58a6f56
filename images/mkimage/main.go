// Command mkimage builds the bootable appliance out of the program and Debian's kernel: what
// `make image` calls. It owns the order of the steps and what goes into the image; the formats belong
// to the packages beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"lockstep/images/debian"
)

type options struct {
	program string // the lockstep binary
	lock    string
	cache   string
	out     string
	version string
	epoch   time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	f.StringVar(&o.program, "program", "bin/image/lockstep", "the program that the image is for")
	f.StringVar(&o.lock, "lock", "images/debian.lock", "lock file of the Debian packages")
	f.StringVar(&o.cache, "cache", "", "directory of fetched packages (default: in the user's cache)")
	f.StringVar(&o.out, "out", "bin/image", "directory to write to")
	f.StringVar(&o.version, "version", "devel", "the version's name")
	relock := f.Bool("relock", false, "write the lock file anew with what Debian has now, and build nothing")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *relock {
		return writeLock(ctx, o.lock)
	}
	var err error
	if o.epoch, err = epoch(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	if o.cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find the user's cache: %w (give -cache DIR)", err)
		}
		o.cache = filepath.Join(base, "lockstep", "debian")
	}
	return build(ctx, o)
}

// epoch is the time that all files get (reproducible-builds.org, SOURCE_DATE_EPOCH).
func epoch(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, errors.New("SOURCE_DATE_EPOCH is not set (`make image` sets it to the time of the commit)")
	}
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds since 1970", text)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}

// What the first lock is made of.
var newest = debian.Lock{
	Kernel: debian.Package{Follows: "linux-image-6.12-cloud-amd64"},
	Stub:   debian.Package{Name: "systemd-boot-efi"},
}

func writeLock(ctx context.Context, path string) error {
	var l debian.Lock
	var err error
	if l.Kernel, err = debian.Resolve(ctx, newest.Kernel); err != nil {
		return err
	}
	if l.Stub, err = debian.Resolve(ctx, newest.Stub); err != nil {
		return err
	}
	if err := l.Write(path); err != nil {
		return err
	}
	fmt.Printf("%s: %s %s, %s %s\n", path, l.Kernel.Name, l.Kernel.Version, l.Stub.Name, l.Stub.Version)
	return nil
}
