package statefile_test

import (
	"fmt"
	"os"
	"path/filepath"

	"lockstep/appliance/statefile"
)

// What was saved is there after a restart, and a second process does not get the file meanwhile.
func Example() {
	dir, err := os.MkdirTemp("", "statefile-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "promise")

	f, err := statefile.Open(path)
	if err != nil {
		panic(err)
	}
	if err := f.Save([]byte("voted for a in term 3")); err != nil {
		panic(err)
	}
	_, err = statefile.Open(path)
	fmt.Println("opened twice:", err == nil)
	if err := f.Close(); err != nil {
		panic(err)
	}

	if f, err = statefile.Open(path); err != nil {
		panic(err)
	}
	defer f.Close()
	content, err := f.Load()
	fmt.Println(string(content), err)
	// Output:
	// opened twice: false
	// voted for a in term 3 <nil>
}
