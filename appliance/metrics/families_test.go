package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"lockstep/appliance/control"
)

// fill gives every figure of a status a value that is not zero, each list one element.
func fill(v reflect.Value, next *int) {
	*next++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*next))
	case reflect.Uint64:
		v.SetUint(uint64(*next))
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *next))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), next)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), next)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, next)
		v.SetMapIndex(reflect.ValueOf("key"), e)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(int64(*next), 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	default:
		panic(v.Kind())
	}
}

// eachFigure calls do after having changed one number, truth or moment beneath v, and puts it back.
func eachFigure(v reflect.Value, path string, do func(path string)) {
	old := reflect.New(v.Type()).Elem()
	old.Set(v)
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
		do(path)
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1000)
		do(path)
	case reflect.Uint64:
		v.SetUint(v.Uint() + 1000)
		do(path)
	case reflect.Pointer:
		eachFigure(v.Elem(), path, do)
	case reflect.Slice:
		eachFigure(v.Index(0), path+"[]", do)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		next := 5000
		fill(e, &next)
		changed := reflect.MakeMap(v.Type())
		changed.SetMapIndex(reflect.ValueOf("key"), e)
		v.Set(changed)
		do(path)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(9000, 0)))
			do(path)
			break
		}
		for i := range v.NumField() {
			eachFigure(v.Field(i), path+"."+v.Type().Field(i).Name, do)
		}
	}
	v.Set(old)
}

func scrape(t *testing.T, s control.Status) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(newCollector(fixed(s))); err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatal(answer.Body.String())
	}
	return answer.Body.String()
}

// Whatever `lockstep status --json` has as a number, a truth or a moment is a metric as well.
func TestEveryFigureIsExported(t *testing.T) {
	var s control.Status
	fill(reflect.ValueOf(&s).Elem(), new(int))
	before := scrape(t, s)
	figures := 0
	eachFigure(reflect.ValueOf(&s).Elem(), "Status", func(path string) {
		figures++
		if scrape(t, s) == before {
			t.Errorf("%s is in the status and in no metric", path)
		}
	})
	if figures < 60 {
		t.Errorf("only %d figures were found", figures)
	}
	for _, f := range Families() {
		if !strings.Contains(before, "# TYPE "+f.Name+" ") {
			t.Errorf("%s is described and never sent", f.Name)
		}
	}
}

// What the voters know is exported where there are voters, so that an appliance that may not
// speak can be alerted on.
func TestSilentIsExported(t *testing.T) {
	s := control.Status{Role: control.RoleActive}
	if strings.Contains(scrape(t, s), "lockstep_silent") {
		t.Error("without a witness nothing is known of voters")
	}
	s.Quorum = &control.Quorum{Silent: true, Active: "a"}
	got := scrape(t, s)
	for _, line := range []string{
		"lockstep_silent 1", "lockstep_quorum_heard 0", "lockstep_quorum_witness_connected 0", `lockstep_quorum_active{node="a"} 1`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if strings.Contains(got, "lockstep_quorum_standby") {
		t.Error("nobody may take over")
	}
}
