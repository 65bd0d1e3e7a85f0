package io.github.secretbroker.connect;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.management.MBeanAttributeInfo;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.Test;

class SettingsTest {
  private static Map<String, String> good() {
    Map<String, String> settings = new HashMap<>();
    settings.put("addresses", "secretbroker-1.example.org:8443, [2001:db8::1]:8443");
    settings.put("tls.ca.file", "/ca.pem");
    settings.put("tls.cert.file", "/tls.crt");
    settings.put("tls.key.file", "/tls.key");
    return settings;
  }

  @Test
  void defaults() {
    Settings s = Settings.parse(good());
    assertEquals(List.of(new Settings.Address("secretbroker-1.example.org", 8443), new Settings.Address("2001:db8::1", 8443)), s.addresses());
    assertEquals("secretbroker-1.example.org:8443, [2001:db8::1]:8443", s.brokers());
    assertEquals(Duration.ofSeconds(5), s.timeout());
    assertEquals(Duration.ofSeconds(60), s.startupTimeout());
    assertNull(s.maxAge());
    assertNull(s.serverName());
    assertEquals("secretbroker", s.clientId());
    assertEquals(s, Settings.parse(good()), "equal settings share a connection");
  }

  @Test
  void allFaultsAtOnce() {
    Map<String, String> settings = new HashMap<>(Map.of(
        "adresses", "x:1", "tls.cert.file", "/tls.crt", "tls.keystore.file", "/k.p12",
        "timeout.ms", "10000", "startup.timeout.ms", "-1", "max.age.ms", "1s", "client.id", "a b"));
    String text = assertThrows(ConfigException.class, () -> Settings.parse(settings)).getMessage();
    for (String want : List.of(
        "adresses is not a setting; the settings are addresses, ", "addresses is missing", "set exactly one of tls.ca.file and tls.truststore.file",
        "tls.cert.file and tls.key.file must be set together", "tls.keystore.file and tls.keystore.password.file must be set together",
        "set exactly one of tls.cert.file with tls.key.file and tls.keystore.file",
        "timeout.ms must be a number from 500 to 9000", "startup.timeout.ms must be a number from 0 to 600000", "client.id must have 1 to 64 letters", "max.age.ms must be a number from 0 to 86400000")) {
      assertTrue(text.contains(want), want + " is not in: " + text);
    }
  }

  /** The README's tables list all settings and all JMX attributes, and no others. */
  @Test
  void theReadmeIsComplete() throws Exception {
    String readme = Files.readString(Path.of("../README.md"));
    assertEquals(new TreeSet<>(Settings.NAMES), names(readme, "| `config.providers.secretbroker.param.` |"));
    Statistics statistics = Statistics.register("readme");
    TreeSet<String> attributes = new TreeSet<>();
    for (MBeanAttributeInfo attribute : statistics.getMBeanInfo().getAttributes()) {
      attributes.add(attribute.getName());
    }
    statistics.unregister();
    assertEquals(attributes, names(readme, "| attribute |"));
    for (String fact : List.of("| `timeout.ms` | `5000` |", "; 500 to 9000. |", "| `startup.timeout.ms` | `60000` |", "; 0 to 600000.",
        "| `client.id` | `secretbroker` |")) {
      assertTrue(readme.contains(fact), fact);
    }
  }

  /** Returns the names in the first column of the table with this header. */
  private static TreeSet<String> names(String text, String header) {
    TreeSet<String> names = new TreeSet<>();
    int begin = text.indexOf(header);
    assertTrue(begin >= 0, header);
    for (String row : text.substring(begin, text.indexOf("\n\n", begin)).lines().skip(2).toList()) {
      Matcher name = Pattern.compile("`([^`]+)`").matcher(row.substring(0, row.indexOf('|', 1)));
      while (name.find()) {
        names.add(name.group(1));
      }
    }
    return names;
  }

  @Test
  void faultyAddresses() {
    for (String address : List.of("broker", "broker:", ":8443", "broker:0", "broker:65536", "broker:x", "https://broker:8443",
        "2001:db8::1:8443", "[]:1", "a:1,,b:1", "a:1,a:1", "a b:1")) {
      Map<String, String> settings = good();
      settings.put("addresses", address);
      assertThrows(ConfigException.class, () -> Settings.parse(settings), address);
    }
  }
}
