// Package kmod owns what is known of the kernel's modules at build time: which ones an image needs,
// on which others these stand, for which devices they are, and the index file that tells init so.
//
// It must not know how modules are loaded, nor where their files come from.
package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// Module is one module of a kernel.
type Module struct {
	Name    string   // as the kernel writes it, with underscores
	Needs   []string // modules that must be there before
	Aliases []string // patterns of device identifiers (modalias) that it drives
	Object  []byte   // the ELF file, uncompressed; its signature is at its end
}

// Set are modules in an order in which each comes after those it needs.
type Set []Module

// maxObject bounds one uncompressed module, bytes.
const maxObject = 64 << 20

// canonicalName is a module's name as the kernel writes it, of a file name or of any spelling.
func canonicalName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// Select picks the wanted modules and all that they need out of a kernel's files, by path. Names
// that are compiled into the kernel (the lines of modules.builtin) need no file.
func Select(files map[string][]byte, builtin string, wanted []string) (Set, error) {
	s := selector{files: map[string]string{}, content: files, state: map[string]int{}}
	for p := range files {
		s.files[canonicalName(p)] = p
	}
	for line := range strings.Lines(builtin) {
		s.state[canonicalName(strings.TrimSpace(line))] = done
	}
	for _, name := range wanted {
		if err := s.add(canonicalName(name)); err != nil {
			return nil, err
		}
	}
	return s.out, nil
}

const (
	visiting = 1
	done     = 2
)

type selector struct {
	files   map[string]string // path by name
	content map[string][]byte
	state   map[string]int
	out     Set
}

// add puts a module behind those it needs.
func (s *selector) add(name string) error {
	switch s.state[name] {
	case done:
		return nil
	case visiting:
		return fmt.Errorf("module %s needs itself", name)
	}
	s.state[name] = visiting
	p, ok := s.files[name]
	if !ok {
		return fmt.Errorf("this kernel has no module %s, neither as a file nor compiled in", name)
	}
	object, err := decompress(p, s.content[p])
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	m, err := parse(name, object)
	if err != nil {
		return err
	}
	for _, need := range m.Needs {
		if err := s.add(need); err != nil {
			return fmt.Errorf("needed by %s: %w", name, err)
		}
	}
	s.state[name] = done
	s.out = append(s.out, m)
	return nil
}

// decompress undoes a .ko.xz. The signature is of the uncompressed module and stays valid.
func decompress(p string, data []byte) ([]byte, error) {
	if !strings.HasSuffix(p, ".xz") {
		return data, nil
	}
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("uncompress: %w", err)
	}
	var out bytes.Buffer
	// One byte beyond the limit tells that there is more.
	if _, err := out.ReadFrom(io.LimitReader(r, maxObject+1)); err != nil {
		return nil, fmt.Errorf("uncompress: %w", err)
	}
	if out.Len() > maxObject {
		return nil, fmt.Errorf("uncompress: larger than %d bytes", maxObject)
	}
	return out.Bytes(), nil
}

// parse reads what a module says of itself in its .modinfo section: strings key=value, each ended
// by a zero byte.
func parse(name string, object []byte) (Module, error) {
	m := Module{Name: name, Object: object}
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return m, fmt.Errorf("module %s: %w", name, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return m, fmt.Errorf("module %s: it has no .modinfo section", name)
	}
	info, err := section.Data()
	if err != nil {
		return m, fmt.Errorf("module %s: read .modinfo: %w", name, err)
	}
	for item := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(item, "=")
		switch key {
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "depends":
			for need := range strings.SplitSeq(value, ",") {
				if need != "" {
					m.Needs = append(m.Needs, canonicalName(need))
				}
			}
		case "softdep":
			// "pre: a b post: c": what should be there first, if this kernel has it at all. The
			// modules we need have such words only for checksums that are compiled in.
		}
	}
	slices.Sort(m.Aliases)
	return m, nil
}
