package main

import (
	"os"
	"path/filepath"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

// documented finds values of the chart that its README does not name.
func documented(chart string, found *findings) error {
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return err
	}
	readme, err := os.ReadFile(filepath.Join(chart, "README.md"))
	if err != nil {
		return err
	}
	found.place = filepath.Join(chart, "README.md")
	leaves := leavesOf("", values, nil)
	sort.Strings(leaves)
	for _, leaf := range leaves {
		if !strings.Contains(string(readme), "| `"+leaf+"` |") {
			found.add("the value `%s` is not in the table", leaf)
		}
	}
	return nil
}

// leavesOf lists the paths of values that are no maps, or maps that are empty by default.
func leavesOf(path string, value any, leaves []string) []string {
	inner, nested := value.(map[string]any)
	if !nested || len(inner) == 0 {
		return append(leaves, path)
	}
	for key, value := range inner {
		leaves = leavesOf(strings.TrimPrefix(path+"."+key, "."), value, leaves)
	}
	return leaves
}
