package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/client-go/kubernetes/scheme"
	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// admit defaults an object and says what the API server would refuse it for; unknown fields too.
func (d definition) admit(object map[string]any) ([]string, error) {
	version, _ := object["apiVersion"].(string)
	for _, served := range d.internal.Spec.Versions {
		if d.internal.Spec.Group+"/"+served.Name != version {
			continue
		}
		schema := d.internal.Spec.Validation
		if served.Schema != nil {
			schema = served.Schema
		}
		return admit(schema.OpenAPIV3Schema, object)
	}
	return []string{version + " is not served"}, nil
}

func admit(schema *apiextensions.JSONSchemaProps, object map[string]any) ([]string, error) {
	shape, err := structural.NewStructural(schema)
	if err != nil {
		return nil, err
	}
	var faults []string
	options := structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, unknown := range pruning.PruneWithOptions(object, shape, true, options) {
		faults = append(faults, "unknown field "+unknown)
	}
	defaulting.Default(object, shape)
	validator, _, err := validation.NewSchemaValidator(schema)
	if err != nil {
		return nil, err
	}
	all := validation.ValidateCustomResource(nil, object, validator)
	all = append(all, listtype.ValidateListSetsAndMaps(nil, shape, object)...)
	rules := cel.NewValidator(shape, true, celconfig.PerCallLimit)
	if rules != nil && len(all) == 0 {
		var refused field.ErrorList
		refused, _ = rules.Validate(context.Background(), nil, shape, object, nil, celconfig.RuntimeCELCostBudget)
		all = append(all, refused...)
	}
	for _, fault := range all {
		faults = append(faults, fault.Error())
	}
	return faults, nil
}

// manifests looks at rendered objects.
type manifests struct {
	kinds    map[string]definition
	codecs   serializer.CodecFactory
	security policy.Evaluator
}

// readManifests decodes rendered objects strictly, and looks at pods as the admission of the
// restricted Pod Security level does.
func readManifests(paths []string, definitions map[string]definition, found *findings) error {
	security, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	looks := manifests{
		kinds:    map[string]definition{},
		codecs:   serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict),
		security: security,
	}
	for _, one := range definitions {
		looks.kinds[one.internal.Spec.Group+" "+one.internal.Spec.Names.Kind] = one
	}
	for _, path := range paths {
		found.place = path
		texts, err := documents(path)
		if err != nil {
			return err
		}
		for _, text := range texts {
			object := map[string]any{}
			if err := json.Unmarshal(text, &object); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			faults, err := looks.at(text, object)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, fault := range faults {
				found.add("%v %v: %s", object["kind"], object["metadata"].(map[string]any)["name"], fault)
			}
		}
	}
	return nil
}

// at says what is wrong with one object.
func (m manifests) at(text []byte, object map[string]any) ([]string, error) {
	version, _ := object["apiVersion"].(string)
	group, _, _ := strings.Cut(version, "/")
	if group == "apiextensions.k8s.io" {
		return nil, nil
	}
	if one, custom := m.kinds[fmt.Sprintf("%s %v", group, object["kind"])]; custom {
		return one.admit(object)
	}
	decoded, _, err := m.codecs.UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		return []string{err.Error()}, nil
	}
	deployment, ok := decoded.(*appsv1.Deployment)
	if !ok {
		return nil, nil
	}
	pod := deployment.Spec.Template
	level := psaapi.LevelVersion{Level: psaapi.LevelRestricted, Version: psaapi.LatestVersion()}
	var faults []string
	for _, result := range m.security.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
		if !result.Allowed {
			faults = append(faults, result.ForbiddenReason+": "+result.ForbiddenDetail)
		}
	}
	return faults, nil
}
