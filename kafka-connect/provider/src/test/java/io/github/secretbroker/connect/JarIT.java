package io.github.secretbroker.connect;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.List;
import java.util.Set;
import java.util.jar.JarFile;
import org.junit.jupiter.api.Test;

/** Tests that the jar disturbs no other: the JDBC provider is on the class path of a connector. */
class JarIT {
  private static final String OWN = "io/github/secretbroker/connect/";
  private static final String RELOCATED = OWN + "shaded/";
  private static final String SERVICES = "META-INF/services/";
  private static final String CONFIG_PROVIDER = "org.apache.kafka.common.config.provider.ConfigProvider";

  private static List<String> entries() throws IOException {
    try (JarFile jar = new JarFile(System.getProperty("jar"))) {
      return jar.stream().filter(entry -> !entry.isDirectory()).map(entry -> entry.getName()).toList();
    }
  }

  /** Reports whether the entry is a file of this package: it is not in any directory below it. */
  private static boolean own(String entry) {
    return entry.startsWith(OWN) && entry.indexOf('/', OWN.length()) < 0;
  }

  @Test
  void containsOnlyTheProviderAndRelocatedClasses() throws IOException {
    List<String> foreign =
        entries().stream()
            .filter(entry -> !own(entry) && !entry.startsWith(RELOCATED) && !entry.startsWith("META-INF/"))
            .toList();
    assertEquals(List.of(), foreign);
  }

  @Test
  void registersOnlyItselfAndRelocatedServices() throws IOException {
    String relocated = RELOCATED.replace('/', '.');
    List<String> foreign =
        entries().stream()
            .filter(entry -> entry.startsWith(SERVICES))
            .map(entry -> entry.substring(SERVICES.length()))
            .filter(service -> !service.equals(CONFIG_PROVIDER) && !service.startsWith(relocated))
            .toList();
    assertEquals(List.of(), foreign);
  }

  @Test
  void hasWhatTheOthersLookFor() throws IOException {
    Set<String> entries = Set.copyOf(entries());
    for (String entry :
        List.of(
            OWN + "SecretBrokerConfigProvider.class",
            RELOCATED + "io/github/secretbroker/v1/ResolveRequest.class",
            RELOCATED + "io/grpc/ManagedChannel.class",
            SERVICES + CONFIG_PROVIDER)) {
      assertTrue(entries.contains(entry), entry);
    }
  }
}
