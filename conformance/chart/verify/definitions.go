package main

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"sort"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	original "sigs.k8s.io/mcs-api/config/crd"
	"sigs.k8s.io/yaml"
)

// definition is a CustomResourceDefinition as written and as the API server sees it.
type definition struct {
	place    string
	written  *apiextensionsv1.CustomResourceDefinition
	internal *apiextensions.CustomResourceDefinition
}

func readDefinitions(dir string, found *findings) (map[string]definition, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no definitions in %s (%v)", dir, err)
	}
	all := map[string]definition{}
	for _, path := range paths {
		found.place = path
		texts, err := documents(path)
		if err != nil {
			return nil, err
		}
		for _, text := range texts {
			written := &apiextensionsv1.CustomResourceDefinition{}
			if err := runtime.DecodeInto(codecs.UniversalDeserializer(), text, written); err != nil {
				found.add("%v", err)
				continue
			}
			served := written.DeepCopy()
			scheme.Default(served)
			internal := &apiextensions.CustomResourceDefinition{}
			if err := scheme.Convert(served, internal, nil); err != nil {
				found.add("%v", err)
				continue
			}
			// What the server itself fills in at creation.
			for _, version := range internal.Spec.Versions {
				if version.Storage {
					internal.Status.StoredVersions = []string{version.Name}
				}
			}
			for _, fault := range validation.ValidateCustomResourceDefinition(context.Background(), internal) {
				found.add("%v", fault)
			}
			all[written.Name] = definition{path, written, internal}
		}
	}
	return all, nil
}

// compareWithOriginal holds the definitions of the Multi-Cluster Services API equal to those of its
// module: everything but descriptions and the order of versions.
func compareWithOriginal(definitions map[string]definition, found *findings) {
	for _, text := range [][]byte{original.ServiceExportCRD, original.ServiceImportCRD} {
		wanted := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(text, wanted); err != nil {
			found.add("the original: %v", err)
			continue
		}
		found.place = wanted.Name
		ours, ok := definitions[wanted.Name]
		if !ok {
			found.add("is missing")
			continue
		}
		found.place = ours.place
		if !reflect.DeepEqual(ours.written.Labels, wanted.Labels) {
			found.add("labels are %v; the original has %v", ours.written.Labels, wanted.Labels)
		}
		differences("spec", bare(ours.written.Spec, found), bare(wanted.Spec, found), found)
	}
}

// bare is a spec as a tree without descriptions, versions by name.
func bare(spec apiextensionsv1.CustomResourceDefinitionSpec, found *findings) any {
	versions := append([]apiextensionsv1.CustomResourceDefinitionVersion{}, spec.Versions...)
	sort.Slice(versions, func(a, b int) bool { return versions[a].Name < versions[b].Name })
	spec.Versions = versions
	tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&spec)
	if err != nil {
		found.add("%v", err)
	}
	return undescribed(tree)
}

func undescribed(tree any) any {
	switch node := tree.(type) {
	case map[string]any:
		for key, value := range node {
			if _, text := value.(string); key == "description" && text {
				delete(node, key)
			} else {
				node[key] = undescribed(value)
			}
		}
	case []any:
		for index := range node {
			node[index] = undescribed(node[index])
		}
	}
	return tree
}

// differences names the deepest places where two trees differ.
func differences(path string, ours, wanted any, found *findings) {
	left, ok1 := ours.(map[string]any)
	right, ok2 := wanted.(map[string]any)
	if ok1 && ok2 {
		keys := map[string]bool{}
		for key := range left {
			keys[key] = true
		}
		for key := range right {
			keys[key] = true
		}
		for key := range keys {
			differences(path+"."+key, left[key], right[key], found)
		}
		return
	}
	first, ok1 := ours.([]any)
	second, ok2 := wanted.([]any)
	if ok1 && ok2 && len(first) == len(second) {
		for index := range first {
			differences(fmt.Sprintf("%s[%d]", path, index), first[index], second[index], found)
		}
		return
	}
	if !reflect.DeepEqual(ours, wanted) {
		found.add("%s is %v; the original has %v", path, ours, wanted)
	}
}
