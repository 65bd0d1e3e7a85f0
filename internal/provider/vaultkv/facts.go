package vaultkv

import (
	"fmt"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (v *Settings) Facts() (f integration.Facts) {
	f.Add("VAULT_ADDRESS", "Server", v.Address)
	f.Add("VAULT_NAMESPACE", "Namespace", v.Namespace)
	login := string(v.Auth.Type)
	if v.Auth.Mount != "" {
		login += " at auth/" + v.Auth.Mount
	}
	f.Add("VAULT_LOGIN", "Login", login)
	f.Add("VAULT_ROLE", "Vault role", v.Auth.Role)
	f.Add("VAULT_ROLE_ID", "Role ID", v.Auth.RoleID)
	var rules []string
	for _, m := range v.Mounts {
		path := m.Path + "/*"
		if m.Engine == KV2 {
			path = m.Path + "/data/*"
		}
		f.Add("VAULT_MOUNT", "Mount", fmt.Sprintf("%s (%s)", m.Path, m.Engine))
		rules = append(rules, fmt.Sprintf("path %q {\n  capabilities = [\"read\"]\n}", path))
		if m.Engine == KV2 && v.Poll > 0 {
			rules = append(rules, fmt.Sprintf("path %q {\n  capabilities = [\"read\"]\n}", m.Path+"/metadata/*"))
		}
	}
	// A value with more than one line is a document to paste.
	f.Add("VAULT_POLICY", "Policy of the role, to narrow to what the grants give", strings.Join(rules, "\n"))
	return f
}
