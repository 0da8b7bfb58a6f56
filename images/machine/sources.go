package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lockstep/images/settings"
	"lockstep/images/volume"
)

const (
	fwCfgDir = "/sys/firmware/qemu_fw_cfg/by_name/opt/lockstep"
	// espDir on the image's own EFI system partition.
	espDir = "LOCKSTEP"
)

// findSources reads all places where configuration may be, in the order of their precedence:
// what the hypervisor passes to this very start, a volume that belongs to this machine, and the disk,
// which may be a copy of another machine's.
func findSources() ([]settings.Source, error) {
	var sources []settings.Source
	add := func(name string, files volume.Tree) {
		if len(files) > 0 {
			sources = append(sources, settings.Source{Name: name, Files: files})
		}
	}
	files, err := readFwCfg(fwCfgDir)
	if err != nil {
		return nil, fmt.Errorf("fw_cfg: %w", err)
	}
	add("fw_cfg", files)
	found := findVolumes()
	cidata := slices.DeleteFunc(slices.Clone(found), func(v device) bool { return !v.is(volume.ConfigLabel, volume.KindISO, volume.KindFAT) })
	if len(cidata) > 1 {
		return nil, fmt.Errorf("%s and %s are both called %s: which one counts cannot be told, detach one", cidata[0].name, cidata[1].name, volume.ConfigLabel)
	}
	for _, v := range cidata {
		if files, err = readVolume(v, "."); err != nil {
			return nil, fmt.Errorf("%s volume %s: %w", volume.ConfigLabel, v.name, err)
		}
		add(volume.ConfigLabel+" volume on "+v.name, files)
	}
	for _, v := range found {
		if !v.is(volume.BootLabel, volume.KindFAT) {
			continue
		}
		if files, err = readVolume(v, espDir); err != nil {
			return nil, fmt.Errorf("EFI system partition %s: %w", v.name, err)
		}
		add("EFI system partition "+v.name, files)
	}
	return sources, nil
}

// readFwCfg reads what QEMU was started with as -fw_cfg name=opt/lockstep/NAME. The kernel shows
// each item as a directory with its content in the file raw, and slashes in names as directories.
func readFwCfg(dir string) (volume.Tree, error) {
	flat := volume.Tree{}
	var walk func(at, name string, depth int) error
	walk = func(at, name string, depth int) error {
		if data, err := os.ReadFile(filepath.Join(at, "raw")); err == nil {
			return flat.Add(name, data)
		}
		entries, err := os.ReadDir(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || depth == 0 {
			return err
		}
		for _, e := range entries {
			if err := walk(filepath.Join(at, e.Name()), strings.TrimPrefix(name+"/"+e.Name(), "/"), depth-1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(dir, "", 4); err != nil {
		return nil, err
	}
	return flat, flat.Unbundle()
}

// device is a block device with a file system that is known.
type device struct {
	name  string // "vda1"
	kind  volume.Kind
	label string
}

func (d device) is(label string, kinds ...volume.Kind) bool {
	return strings.EqualFold(d.label, label) && slices.Contains(kinds, d.kind)
}

// findVolumes looks at every block device, in the order of their names.
func findVolumes() (found []device) {
	entries, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if size, err := os.ReadFile(filepath.Join("/sys/class/block", name, "size")); err != nil || strings.TrimSpace(string(size)) == "0" ||
			strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "fd") {
			continue
		}
		f, err := os.Open("/dev/" + name)
		if err != nil {
			continue // a drive without a medium
		}
		kind, label, err := volume.Identify(f)
		f.Close()
		if err == nil {
			found = append(found, device{name, kind, label})
		}
	}
	return found
}

// readVolume mounts a device for as long as it takes to read the files.
func readVolume(d device, dir string) (files volume.Tree, err error) {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("/dev/"+d.name, mountPoint, string(d.kind), flags, ""); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	defer func() {
		if e := unix.Unmount(mountPoint, 0); e != nil && err == nil {
			err = fmt.Errorf("unmount: %w", e)
		}
	}()
	return volume.Read(os.DirFS(mountPoint), dir)
}
