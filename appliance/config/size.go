package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. In the file it is written with a unit: 64KiB,
// 16MiB, 1GiB, or as a plain number of bytes.
type Size uint64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

var sizeUnits = [...]struct {
	suffix string
	unit   Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}, {"", 1}}

// ParseSize reads a size as the file writes it. Only whole numbers of binary
// units are taken: "16MB" is refused because readers disagree about what it is.
func ParseSize(s string) (Size, error) {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		if err != nil {
			break
		}
		if n > math.MaxInt64/uint64(u.unit) {
			return 0, fmt.Errorf("size %q is out of range", s)
		}
		return Size(n) * u.unit, nil
	}
	return 0, fmt.Errorf("%q is not a size", s)
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s >= u.unit && s%u.unit == 0 {
			return strconv.FormatUint(uint64(s/u.unit), 10) + u.suffix
		}
	}
	return strconv.FormatUint(uint64(s), 10) + "B"
}
