package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	spec "github.com/opencontainers/image-spec/specs-go/v1"
)

func image() *Image {
	return &Image{
		Name: "lockstep:1", Architecture: "amd64", Created: time.Unix(1_700_000_000, 0).UTC(),
		Files:  []File{{Name: "usr/bin/prog", Mode: 0o755, Data: []byte("program")}, {Name: "var/lib/state/", Mode: 0o700, Owner: 65532}},
		Config: spec.ImageConfig{Entrypoint: []string{"/usr/bin/prog"}, User: "65532", Volumes: map[string]struct{}{"/var/lib/state": {}, "/etc/x": {}}},
	}
}

// files reads a tar archive.
func files(t *testing.T, r io.Reader) (all map[string][]byte, heads []tar.Header) {
	t.Helper()
	all = map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all, heads
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
		heads = append(heads, *h)
	}
}

// Whoever follows the digests from the index finds the configuration and the files.
func TestArchive(t *testing.T) {
	var b bytes.Buffer
	if err := image().Write(&b); err != nil {
		t.Fatal(err)
	}
	all, _ := files(t, bytes.NewReader(b.Bytes()))
	get := func(d spec.Descriptor, v any) []byte {
		t.Helper()
		data := all["blobs/sha256/"+d.Digest.Encoded()]
		if digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size {
			t.Fatalf("blob %v has %d bytes of digest %v", d, len(data), digest.FromBytes(data))
		}
		if v != nil {
			if err := json.Unmarshal(data, v); err != nil {
				t.Fatal(err)
			}
		}
		return data
	}
	var index spec.Index
	var manifest spec.Manifest
	var config spec.Image
	if err := json.Unmarshal(all["index.json"], &index); err != nil || len(index.Manifests) != 1 || string(all["oci-layout"]) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Fatalf("%s, %s: %v", all["index.json"], all["oci-layout"], err)
	}
	if name := index.Manifests[0].Annotations["org.opencontainers.image.ref.name"]; name != "lockstep:1" {
		t.Errorf("it is called %q", name)
	}
	get(index.Manifests[0], &manifest)
	get(manifest.Config, &config)
	z, err := gzip.NewReader(bytes.NewReader(get(manifest.Layers[0], nil)))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil || digest.FromBytes(plain) != config.RootFS.DiffIDs[0] {
		t.Errorf("the layer is not what the configuration says: %v", err)
	}
	if diff := cmp.Diff(image().Config, config.Config); diff != "" || config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("%+v\n%s", config, diff)
	}
	content, heads := files(t, bytes.NewReader(plain))
	var names []string
	for _, h := range heads {
		names = append(names, h.Name)
		if h.ModTime.Unix() != 1_700_000_000 {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
	}
	if diff := cmp.Diff([]string{"usr/", "usr/bin/", "usr/bin/prog", "var/", "var/lib/", "var/lib/state/"}, names); diff != "" {
		t.Error(diff)
	}
	if last := heads[len(heads)-1]; string(content["usr/bin/prog"]) != "program" || last.Uid != 65532 || last.Mode != 0o700 {
		t.Errorf("%q, %+v", content["usr/bin/prog"], last)
	}
}

func TestSameInputSameBytes(t *testing.T) {
	var one, two bytes.Buffer
	if err := errors.Join(image().Write(&one), image().Write(&two)); err != nil || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("two archives differ (%v)", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestDiskFull(t *testing.T) {
	if err := image().Write(full{}); err == nil {
		t.Error("no error")
	}
}
