package secret

import "strings"

const gcpExample = "projects/my-project/secrets/db-secret::password"

// parseGCPStore checks the parent of a Google Cloud secret, the part of its
// resource name before "/secrets/": "projects/PROJECT", or
// "projects/PROJECT/locations/LOCATION" for regional secrets. PROJECT is a project
// ID or a project number. Only Google can map one to the other, so a reference must
// use the same form as the integration. Each form has a single spelling, so
// parseGCPStore returns s unchanged.
func parseGCPStore(s string) (string, error) {
	if fault := gcpProject(s); fault != "" {
		return "", Errorf(ReasonInvalidReference, "not a project: %s; expected projects/PROJECT, or projects/PROJECT/locations/LOCATION for regional secrets", fault)
	}
	return s, nil
}

// gcpProject describes what is wrong with the parent s, without quoting it.
func gcpProject(s string) (fault string) {
	rest, ok := strings.CutPrefix(s, "projects/")
	if !ok {
		return "it does not begin with projects/"
	}
	project, location, regional := strings.Cut(rest, "/locations/")
	switch {
	case !isGCPProject(project):
		return "the project must be a project ID (6 to 30 lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen) or a project number"
	case regional && !isGCPLocation(location):
		return "the location must be a region such as europe-west3, or a multi-region such as eu"
	}
	return ""
}

// GCPEndpoint returns the Secret Manager host that serves the secrets of a
// canonical store. Source: Secret Manager, "Service endpoints".
func GCPEndpoint(store string) string {
	if _, location, regional := strings.Cut(store, "/locations/"); regional {
		return "secretmanager." + location + ".rep.googleapis.com"
	}
	return "secretmanager.googleapis.com"
}

// parseGCP parses r.Name, a secret's resource name. The reference may contain the
// version in the resource name, as /versions/VERSION, or after a "#".
func parseGCP(r *Ref) (fault string) {
	var ok bool
	if r.Store, r.Name, ok = strings.Cut(r.Name, "/secrets/"); !ok {
		return "/secrets/ and the secret's name must follow the project"
	}
	if fault := gcpProject(r.Store); fault != "" {
		return fault
	}
	if name, version, inName := strings.Cut(r.Name, "/versions/"); inName {
		if r.Version != "" {
			return `the version is given twice, after "/versions/" and after "#"`
		}
		if version == "" {
			return `the version after "/versions/" is empty; leave it out to select the newest version`
		}
		r.Name, r.Version = name, version
	}
	if !isGCPSecretName(r.Name) {
		return "the secret's name must be 1 to 255 letters, digits, hyphens and underscores"
	}
	if r.Version != "" && !isGCPVersion(r.Version) {
		return "the version must be a number, or an alias of 1 to 63 letters, digits, hyphens and underscores that begins with a letter"
	}
	if r.Version == "latest" { // Secret Manager's name for the newest version
		r.Version = ""
	}
	return ""
}

// isGCPProject reports whether s is a project ID or a project number. It rejects
// IDs with a domain ("example.com:project"); such projects can be named by number.
func isGCPProject(s string) bool {
	return isGCPNumber(s) || len(s) >= 6 && len(s) <= 30 && isGCPLabel(s)
}

// isGCPLocation reports whether s is a region or a multi-region. Global secrets
// have no location in their resource name.
func isGCPLocation(s string) bool {
	return len(s) >= 2 && len(s) <= 40 && isGCPLabel(s) && s != "global"
}

// isGCPLabel reports whether s consists of lower-case letters, digits and hyphens,
// with a letter first and no hyphen last.
func isGCPLabel(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && !isDigit(c) && c != '-' {
			return false
		}
	}
	return s != "" && isAlpha(s[0]) && s[len(s)-1] != '-'
}

// isGCPNumber reports whether s is a positive number of at most 18 digits, without
// leading zeros, so that each number has a single spelling.
func isGCPNumber(s string) bool {
	return len(s) >= 1 && len(s) <= 18 && s[0] != '0' && isDigits(s)
}

// isGCPSecretName reports whether s is a valid secret ID. Secret IDs are
// case-sensitive.
func isGCPSecretName(s string) bool {
	return len(s) >= 1 && len(s) <= 255 && isGCPText(s)
}

// isGCPVersion reports whether s is a version number or a valid version alias.
func isGCPVersion(s string) bool {
	return isGCPNumber(s) || len(s) >= 1 && len(s) <= 63 && isAlpha(s[0]) && isGCPText(s)
}

func isGCPNamePart(s string) bool { return len(s) <= 255 && isGCPText(s) }

func isGCPText(s string) bool {
	for i := range len(s) { // faster than isText
		if c := s[i]; !isAlpha(c) && !isDigit(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
