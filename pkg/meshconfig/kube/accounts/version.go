package accounts

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// versionOf tells an object as it is from itself at another time, and from
// another one of its name.
func versionOf(uid types.UID, resource string) string { return string(uid) + "/" + resource }

func parts(version string) (uid types.UID, resource string) {
	first, second, _ := strings.Cut(version, "/")
	return types.UID(first), second
}
