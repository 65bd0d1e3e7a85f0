# Converts a connector's configuration with secret.manager.* properties to one with
# placeholders for the config provider "secretbroker":
#
#     jq -f to-placeholders.jq connector.json
#
# It accepts both forms: {"name": ..., "config": {...}} and only the configuration.
def placeholders:
  (.["secret.manager.provider.integration.id"] // error("secret.manager.provider.integration.id is missing")) as $id
  | [(.["secret.manager.managed.configs"] // "") | split(",")[] | gsub("^\\s+|\\s+$"; "") | select(. != "")] as $managed
  | reduce $managed[] as $name (.;
      if has($name) then .[$name] = "${secretbroker:\($id):\(.[$name])}"
      else error("\($name) is listed in secret.manager.managed.configs, but does not exist") end)
  | with_entries(select(.key == "secret.manager" or (.key | startswith("secret.manager.")) | not));

def converted:
  if .["secret.manager.enabled"] == "true" then placeholders
  elif has("secret.manager.enabled") then with_entries(select(.key == "secret.manager" or (.key | startswith("secret.manager.")) | not))
  else . end;

if (.config | type) == "object" then .config |= converted else converted end
