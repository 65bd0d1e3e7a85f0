package io.github.secretbroker.connect;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.regex.Pattern;
import org.apache.kafka.common.config.ConfigException;

/**
 * What the path of a placeholder names: an integration, and optionally the connector that contains the
 * placeholder. Kafka does not tell a config provider the connector, so the placeholder has to name it.
 *
 * @param connector the claim that the broker records, which it does not verify; "" for none
 */
record Target(String integration, String connector) {
  /** The form of placeholders, for errors. */
  static final String FORM = "${secretbroker:<integration id>:<reference>}";

  /** The ids of integrations that the broker accepts (Integration.id in integration.proto). */
  private static final Pattern INTEGRATION_ID =
      Pattern.compile("(?!.*\\.\\.)[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?");

  /** The maximum length of a connector's name that the broker accepts, in bytes. */
  private static final int MAX_CONNECTOR = 256;

  /** Returns an integration without a connector. */
  static Target of(String integration) {
    return new Target(integration, "");
  }

  /**
   * Parses a path, {@code <integration id>} or {@code <integration id>/<connector>}, the connector's name
   * percent-encoded as in a URL.
   *
   * @throws ConfigException if it is neither; the message does not quote it, because it may be a value
   */
  static Target parse(String path) {
    if (path == null || path.isEmpty()) {
      throw new ConfigException("secretbroker: a placeholder names no integration; write " + FORM);
    }
    if (path.equals("https") || path.equals("arn") || path.startsWith("projects/")) {
      throw new ConfigException("secretbroker: a placeholder has its reference where the integration belongs; write " + FORM);
    }
    int slash = path.indexOf('/');
    String integration = slash < 0 ? path : path.substring(0, slash);
    if (!INTEGRATION_ID.matcher(integration).matches()) {
      throw new ConfigException(
          "secretbroker: the text between the first two colons of a placeholder is not a valid integration id,"
              + " which has 1 to 64 lower-case letters, digits, dots, underscores and hyphens, begins and ends"
              + " with a letter or digit, and has no two dots in a row;"
              + " write " + FORM + ", or ${secretbroker:<integration id>/<connector>:<reference>}");
    }
    return slash < 0 ? of(integration) : new Target(integration, decoded(path.substring(slash + 1)));
  }

  private static String decoded(String label) {
    String fault = "secretbroker: the connector behind the / of a placeholder ";
    if (label.indexOf('/') >= 0) {
      throw new ConfigException(fault + "contains another /; write %2F for a / in its name");
    }
    String name;
    try {
      name = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes(label))).toString();
    } catch (CharacterCodingException | NumberFormatException e) {
      throw new ConfigException(fault + "is not percent-encoded UTF-8; write %25 for a % in its name");
    }
    String problem = problem(name);
    if (problem != null) {
      throw new ConfigException(fault + problem);
    }
    return name;
  }

  /** Returns why the broker would refuse a connector's name, or null. */
  static String problem(String name) {
    if (name.isEmpty()) {
      return "is empty; write its name, or leave out the /";
    }
    if (name.getBytes(StandardCharsets.UTF_8).length > MAX_CONNECTOR) {
      return "is longer than " + MAX_CONNECTOR + " bytes";
    }
    if (name.chars().anyMatch(c -> Character.isISOControl(c) || c == 0x2028 || c == 0x2029)) {
      return "contains a control character; use the connector's name";
    }
    return null;
  }

  private static byte[] bytes(String label) throws CharacterCodingException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    for (int i = 0; i < label.length(); i++) {
      int end = label.offsetByCodePoints(i, 1);
      if (label.charAt(i) == '%') {
        end = i + 3;
        if (end > label.length() || !label.substring(i + 1, end).matches("[0-9A-Fa-f]{2}")) {
          throw new NumberFormatException();
        }
        out.write(Integer.parseInt(label.substring(i + 1, end), 16));
      } else {
        ByteBuffer encoded = StandardCharsets.UTF_8.newEncoder().encode(java.nio.CharBuffer.wrap(label, i, end));
        out.write(encoded.array(), 0, encoded.limit());
      }
      i = end - 1;
    }
    return out.toByteArray();
  }
}
