// Package oci writes container images: one layer, in an archive of the OCI image layout, which
// podman, skopeo and Docker read. The same input gives the same bytes.
//
// It must not know what the files are for.
package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	spec "github.com/opencontainers/image-spec/specs-go/v1"
)

// File is a regular file of an image or, with a slash at its name's end, a directory. The
// directories above it come by themselves, owned by root.
type File struct {
	Name  string // without a slash before it
	Mode  int64
	Owner int // user and group
	Data  []byte
}

// Image is what a container is made of.
type Image struct {
	Name         string // as it is called in the archive: NAME:TAG
	Architecture string
	Created      time.Time // also the time of all files
	Files        []File
	Config       spec.ImageConfig
}

// Write writes the archive.
func (i *Image) Write(w io.Writer) error {
	plain, err := i.layer()
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(plain); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	a := &archive{at: i.Created, tar: tar.NewWriter(w), made: map[string]bool{}}
	layer := a.blob(spec.MediaTypeImageLayerGzip, packed.Bytes())
	config := a.object(spec.MediaTypeImageConfig, spec.Image{
		Created: &i.Created, Platform: spec.Platform{Architecture: i.Architecture, OS: "linux"}, Config: i.Config,
		RootFS: spec.RootFS{Type: "layers", DiffIDs: []digest.Digest{sum(plain)}},
	})
	manifest := a.object(spec.MediaTypeImageManifest, spec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: spec.MediaTypeImageManifest, Config: config, Layers: []spec.Descriptor{layer},
	})
	manifest.Platform = &spec.Platform{Architecture: i.Architecture, OS: "linux"}
	manifest.Annotations = map[string]string{spec.AnnotationRefName: i.Name}
	a.json(spec.ImageIndexFile, spec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: spec.MediaTypeImageIndex, Manifests: []spec.Descriptor{manifest},
	})
	a.json(spec.ImageLayoutFile, spec.ImageLayout{Version: spec.ImageLayoutVersion})
	return a.close()
}

// layer is the files as a tar archive.
func (i *Image) layer() ([]byte, error) {
	var b bytes.Buffer
	a := &archive{at: i.Created, tar: tar.NewWriter(&b), made: map[string]bool{}}
	for _, f := range i.Files {
		a.add(f)
	}
	if err := a.close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// archive is a tar archive that is written; it keeps the first error.
type archive struct {
	at   time.Time
	tar  *tar.Writer
	made map[string]bool // directories
	err  error
}

func (a *archive) add(f File) {
	above := path.Dir(strings.TrimSuffix(f.Name, "/"))
	if above != "." && !a.made[above] {
		a.add(File{Name: above + "/", Mode: 0o755})
	}
	head := tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.Owner, Gid: f.Owner, Size: int64(len(f.Data)), ModTime: a.at, Typeflag: tar.TypeReg}
	if dir, ok := strings.CutSuffix(f.Name, "/"); ok {
		head.Typeflag, a.made[dir] = tar.TypeDir, true
	}
	if a.err == nil {
		a.err = a.tar.WriteHeader(&head)
	}
	if a.err == nil {
		_, a.err = a.tar.Write(f.Data)
	}
}

// blob adds what is called by its digest.
func (a *archive) blob(mediaType string, data []byte) spec.Descriptor {
	d := sum(data)
	a.add(File{Name: path.Join(spec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), Mode: 0o644, Data: data})
	return spec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// sum is what a blob is called by. (The library's own way panics in a program that does not link the hash.)
func sum(data []byte) digest.Digest {
	s := sha256.Sum256(data)
	return digest.NewDigestFromBytes(digest.SHA256, s[:])
}

func (a *archive) object(mediaType string, v any) spec.Descriptor {
	return a.blob(mediaType, a.encoded(v))
}

func (a *archive) json(name string, v any) {
	a.add(File{Name: name, Mode: 0o644, Data: a.encoded(v)})
}

func (a *archive) encoded(v any) []byte {
	data, err := json.Marshal(v)
	if a.err == nil {
		a.err = err
	}
	return data
}

func (a *archive) close() error {
	if a.err == nil {
		a.err = a.tar.Close()
	}
	if a.err != nil {
		return fmt.Errorf("write a container image: %w", a.err)
	}
	return nil
}
