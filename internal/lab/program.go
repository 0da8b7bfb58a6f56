package lab

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// FindProgram looks a program up in PATH and where the system keeps its daemons, which is not in
// everybody's PATH.
func FindProgram(name string) (path string, err error) {
	if path, err = exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

// CheckPrograms says what to install if a program is missing. Each is written program:package,
// with Debian's name of the package.
func CheckPrograms(programs ...string) error {
	var missing, packages []string
	for _, p := range programs {
		program, pkg, _ := strings.Cut(p, ":")
		if _, err := FindProgram(program); err == nil {
			continue
		}
		missing = append(missing, program)
		if !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("not found: %s (hint: apt-get install --no-install-recommends %s)", strings.Join(missing, ", "), strings.Join(packages, " "))
}
