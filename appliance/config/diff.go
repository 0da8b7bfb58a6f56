package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Change is one key that two configurations have not in common, as the file writes it; services go by their names.
type Change struct {
	Key  string // such as services.web.limits.idle; a service that only one has: services.web
	From string // empty: there was none
	To   string // empty: there is none any more
}

// Diff lists what changes from one configuration to another, by key.
func Diff(from, to *Config) ([]Change, error) {
	was, err := flat(from)
	if err != nil {
		return nil, err
	}
	is, err := flat(to)
	if err != nil {
		return nil, err
	}
	var all []Change
	for _, list := range []map[string]string{was, is} {
		for key := range list {
			if was[key] != is[key] {
				all = append(all, Change{key, was[key], is[key]})
			}
		}
	}
	slices.SortFunc(all, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return slices.DeleteFunc(slices.Compact(all), func(c Change) bool { return inNewService(c.Key, was, is) }), nil
}

// inNewService reports whether a key is of a service that only one configuration has: that is one change.
func inNewService(key string, was, is map[string]string) bool {
	rest, of := strings.CutPrefix(key, "services.")
	name, _, within := strings.Cut(rest, ".")
	service := "services." + name
	return of && within && (was[service] == "" || is[service] == "")
}

// flat is every key and its value. A service has a key of its own, which says that it is there.
func flat(c *Config) (map[string]string, error) {
	text, err := c.YAML()
	if err != nil {
		return nil, err
	}
	var root map[string]any
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("compare configurations: %w", err)
	}
	out := make(map[string]string)
	services, _ := root["services"].([]any)
	delete(root, "services")
	flatten(out, "", root)
	for i, s := range services {
		path := "services." + c.Services[i].Name
		flatten(out, path, s)
		out[path] = "configured"
	}
	return out, nil
}

func flatten(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			flatten(out, join(path, key), v[key])
		}
	case []any:
		words := make([]string, len(v))
		for i, e := range v {
			words[i] = fmt.Sprint(e)
		}
		out[path] = "[" + strings.Join(words, ", ") + "]"
	default:
		out[path] = fmt.Sprint(v)
	}
}
