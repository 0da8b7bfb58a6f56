package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	spec "github.com/opencontainers/image-spec/specs-go/v1"

	"lockstep/images/oci"
)

// nobody is the user of the witness's container. No image has a list of users.
const nobody = 65532

// container is the program as a container's only file, and how it is started.
type container struct {
	name    string
	command []string
	user    string
	state   oci.File
}

var containers = []container{
	{name: "appliance", command: []string{"run"}, state: oci.File{Name: "var/lib/lockstep/", Mode: 0o700}},
	{name: "witness", command: []string{"witness"}, user: fmt.Sprint(nobody),
		state: oci.File{Name: "var/lib/lockstep-witness/", Mode: 0o700, Owner: nobody}},
}

// images writes a container image for each.
func images(o options) error {
	program, err := os.ReadFile(o.program)
	if err != nil {
		return fmt.Errorf("read the program: %w (`make packages` builds it)", err)
	}
	for _, c := range containers {
		path := filepath.Join(o.out, fmt.Sprintf("lockstep-%s-%s.oci.tar", c.name, runtime.GOARCH))
		f, err := os.Create(path)
		if err != nil {
			return fmt.Errorf("write a container image: %w", err)
		}
		err = c.image(program, o).Write(f)
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

func (c *container) image(program []byte, o options) *oci.Image {
	return &oci.Image{
		Name: "lockstep-" + c.name + ":" + o.version, Architecture: runtime.GOARCH, Created: o.epoch,
		Files: []oci.File{
			{Name: "usr/bin/lockstep", Mode: 0o755, Data: program},
			{Name: "etc/lockstep/", Mode: 0o755},
			{Name: "run/lockstep/", Mode: 0o755},
			{Name: "tmp/", Mode: 0o1777},
			c.state,
		},
		Config: spec.ImageConfig{
			Entrypoint: append([]string{"/usr/bin/lockstep"}, c.command...), User: c.user, WorkingDir: "/",
			Env:     []string{"PATH=/usr/bin"},
			Volumes: map[string]struct{}{"/" + c.state.Name[:len(c.state.Name)-1]: {}},
			Labels: map[string]string{
				spec.AnnotationTitle: "Lockstep " + c.name, spec.AnnotationVersion: o.version, spec.AnnotationLicenses: "Apache-2.0",
			},
		},
	}
}
