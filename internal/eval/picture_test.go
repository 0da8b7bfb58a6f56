package eval

import (
	"encoding/xml"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
)

// box is where a label stands, points from the upper left.
type box struct {
	text                     string
	left, top, right, bottom float64
}

// boxes are those of a picture's level labels, as wide as they were measured.
func boxes(t *testing.T, svg []byte) (all []box) {
	t.Helper()
	size := regexp.MustCompile(`font-size:([0-9.]+)px`)
	var doc struct {
		View  string `xml:"viewBox,attr"`
		Group struct {
			Texts []struct {
				X     float64 `xml:"x,attr"`
				Y     float64 `xml:"y,attr"`
				Style string  `xml:"style,attr"`
				Text  string  `xml:",chardata"`
			} `xml:"text"`
		} `xml:"g"`
	}
	if err := xml.Unmarshal(svg, &doc); err != nil {
		t.Fatal(err)
	}
	var height float64
	if _, err := fmt.Sscanf(doc.View, "0 0 %g %g", new(float64), &height); err != nil {
		t.Fatal(err)
	}
	for _, x := range doc.Group.Texts {
		m := size.FindStringSubmatch(x.Style)
		if m == nil {
			t.Fatalf("%q has no size", x.Text)
		}
		points, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		face := font.DefaultCache.Lookup(sans, vg.Length(points/smaller))
		all = append(all, box{x.Text, x.X, height + x.Y - points, x.X + float64(face.Width(x.Text)), height + x.Y})
	}
	return all
}

// No label hides another one or stands beyond the edge, however many lines there are, and both axes say what they count, and in which unit.
func TestLabels(t *testing.T) {
	for _, e := range experiments() {
		var all []Sample
		o := options{quick: true, only: regexp.MustCompile("")}
		for i, r := range e.runs(o) {
			name, _, _ := strings.Cut(r.name, ", 1")
			part := map[bool]string{true: "in", false: ""}[e.name == "messages"]
			for x := range 3 {
				s := Sample{Series: fmt.Sprintf("%.40s %d", name, i%8), Part: part, Run: i, X: []float64{1, 100, 1e5}[x], Y: float64(3000*i + x + 1)}
				if e.kind != distribution {
					all = append(all, s)
					continue
				}
				for _, p := range []string{partKnown, partRebuild, partRest, partGap} {
					s.Part = p
					all = append(all, s)
				}
			}
		}
		some, err := pictures(e, all)
		if err != nil || len(some) == 0 {
			t.Fatalf("%s: %d pictures, %v", e.name, len(some), err)
		}
		for _, p := range some {
			labels := boxes(t, p.SVG)
			if len(labels) < 5 {
				t.Errorf("%s: %d labels", e.name, len(labels))
			}
			for i, a := range labels {
				if a.left < 0 || a.right > float64(pictureWidth.Points()) || a.top < 0 {
					t.Errorf("%s: %+v stands beyond the edge", e.name, a)
				}
				for _, b := range labels[:i] {
					if a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom {
						t.Errorf("%s: %+v hides %+v", e.name, a, b)
					}
				}
			}
		}
		for _, axis := range []string{e.x, e.y} {
			if axis == "" && e.kind == distribution || strings.Contains(axis, "(") || strings.Contains(axis, "Gbit/s") || strings.Contains(axis, "clients") ||
				strings.Contains(axis, "bytes") || strings.Contains(axis, "a second") || strings.Contains(axis, "share") {
				continue
			}
			t.Errorf("%s: an axis without a unit: %q", e.name, axis)
		}
	}
}
