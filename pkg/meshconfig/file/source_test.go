package file

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"mesh.yaml":     "authPolicy: MUTUAL_TLS\n",
		"svc.yml":       "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {ports: [{port: 80}]}\n",
		".hidden.yaml":  "nonsense",
		"svc.yaml~":     "nonsense",
		"#svc.yaml":     "nonsense",
		"README.md":     "nonsense",
		"#svc.yaml#":    "nonsense",
		".svc.yaml.swp": "nonsense",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, problems, err := Load(dir)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	if !b.Mesh.MutualTLS || len(b.Services) != 1 || b.Services[0].Namespace != "default" {
		t.Fatalf("got %+v", b)
	}
}
