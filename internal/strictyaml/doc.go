// Package strictyaml decodes one YAML document into a struct and reports all problems at
// once, each with its file and line, in words for the person who wrote the file.
//
// It defines what "strict" means for every file that the broker reads: no unknown or
// repeated setting, no value of the wrong type, no second document, and no alias or tag, so
// that the value of a setting is at the position of the setting. It does not know the meaning
// of the settings.
//
// Error texts name settings and never quote their values: a file may contain a password by
// mistake. Of the YAML parser's messages, the package passes on only those that are known to
// be constants.
package strictyaml
