package lockstep_test

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/control"
)

// CHANGELOG.md has, beneath what is unreleased, if anything is, a section for each version, the newest first, and the
// binary says that it is the newest. A tag on this commit is that one.
func TestVersionIsTheChangelogs(t *testing.T) {
	section := regexp.MustCompile(`(?m)^## (.*)$`)
	released := regexp.MustCompile(`^(v\d+\.\d+\.\d+), (\d{4}-\d{2}-\d{2})$`)
	newest, last := "", time.Time{}
	for i, m := range section.FindAllStringSubmatch(read(t, "CHANGELOG.md"), -1) {
		if m[1] == "Unreleased" && i == 0 {
			continue
		}
		v := released.FindStringSubmatch(m[1])
		if v == nil {
			t.Fatalf("CHANGELOG.md has the section %q: want \"Unreleased\" as the first, or a version and its date, \"v1.2.3, 2026-12-31\"", m[1])
		}
		date, err := time.Parse(time.DateOnly, v[2])
		if err != nil || newest != "" && date.After(last) {
			t.Errorf("section %q: not a date, or later than the section's above (%v)", m[1], err)
		}
		if last = date; newest == "" {
			newest = v[1]
		}
	}
	if newest != control.Release {
		t.Errorf("the newest version of CHANGELOG.md is %q, the binary's %q (appliance/control/version.go)", newest, control.Release)
	}
	out, err := exec.Command("git", "tag", "--points-at", "HEAD").Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) && !errors.Is(err, exec.ErrNotFound) { // no repository, as in an archive; no git
		t.Fatal(err)
	}
	for tag := range strings.FieldsSeq(string(out)) {
		if regexp.MustCompile(`^v\d`).MatchString(tag) && tag != newest {
			t.Errorf("this commit is tagged %s, and the newest version of CHANGELOG.md is %s", tag, newest)
		}
	}
}
