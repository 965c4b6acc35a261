package meshconfig

import (
	"strings"

	"github.com/meshpilot/pilot/pkg/meshconfig/strict"
	"github.com/meshpilot/pilot/pkg/model"
	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rolloutAnnotation overrides mtlsRollout for the changes that an object
// decides; its value is the same object as YAML or JSON.
const rolloutAnnotation = "pilot.meshpilot.io/mtls-rollout"

// ownRollout is what the object's annotation says, over the mesh's settings;
// nil without one, or with one that cannot be read.
func (c *compiler) ownRollout(on model.Key, o *metav1.ObjectMeta) *model.Rollout {
	text, ok := o.Annotations[rolloutAnnotation]
	if !ok {
		return nil
	}
	own, errors := readRollout(text, meshOf(c.b))
	if len(errors) > 0 {
		c.warn(codeBadAnnotation, on, "metadata.annotations["+rolloutAnnotation+"]",
			"annotation %s has no effect, the mesh's mtlsRollout applies: %s", rolloutAnnotation, strings.Join(errors, "; "))
		return nil
	}
	return &own
}

func readRollout(text string, mesh *MeshConfig) (model.Rollout, []string) {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil {
		return model.Rollout{}, []string{err.Error()}
	}
	doc := mesh.document().MTLSRollout
	var d strict.Decoder
	c := &check{}
	if len(node.Content) > 0 {
		c.faults = d.Decode(node.Content[0], &doc)
	}
	own := c.rollout("mtlsRollout", doc)
	var errors []string
	for _, f := range c.faults {
		errors = append(errors, f.Text)
	}
	if len(errors) == 0 { // what cannot be read is not checked for its value
		for _, f := range c.findings {
			errors = append(errors, f.text)
		}
	}
	return own, errors
}
