package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.source.SourceConnector;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.source.SourceTask;

/**
 * Writes the lines of a file to a topic, with the settings of Kafka's FileStreamSourceConnector. Runs in
 * workers of Kafka versions for which Maven Central does not have that connector.
 */
public final class LinesConnector extends SourceConnector {
  private Map<String, String> config;

  @Override
  public void start(Map<String, String> props) {
    config = Map.of("file", props.get("file"), "topic", props.get("topic"));
  }

  @Override
  public Class<? extends Task> taskClass() {
    return LinesTask.class;
  }

  @Override
  public List<Map<String, String>> taskConfigs(int maxTasks) {
    return List.of(config);
  }

  @Override
  public void stop() {}

  @Override
  public ConfigDef config() {
    return new ConfigDef()
        .define("file", ConfigDef.Type.STRING, ConfigDef.Importance.HIGH, "the file")
        .define("topic", ConfigDef.Type.STRING, ConfigDef.Importance.HIGH, "the topic");
  }

  @Override
  public String version() {
    return "1";
  }

  /** Reads one file. The offset is the number of lines that were read. */
  public static final class LinesTask extends SourceTask {
    private final CountDownLatch stopped = new CountDownLatch(1);
    private Map<String, String> config;
    private long read;

    @Override
    public void start(Map<String, String> props) {
      config = props;
      Map<String, Object> offset = context.offsetStorageReader().offset(partition());
      read = offset == null ? 0 : (Long) offset.get("lines");
    }

    private Map<String, String> partition() {
      return Map.of("filename", config.get("file"));
    }

    @Override
    public List<SourceRecord> poll() throws InterruptedException {
      stopped.await(200, TimeUnit.MILLISECONDS);
      List<SourceRecord> records = new ArrayList<>();
      for (String line : lines().stream().skip(read).toList()) {
        read++;
        records.add(new SourceRecord(
            partition(), Map.of("lines", read), config.get("topic"), Schema.STRING_SCHEMA, line));
      }
      return records.isEmpty() ? null : records;
    }

    private List<String> lines() {
      try {
        Path file = Path.of(config.get("file"));
        return Files.exists(file) ? Files.readAllLines(file) : List.of();
      } catch (IOException e) {
        return List.of(); // tried again with the next poll
      }
    }

    @Override
    public void stop() {
      stopped.countDown();
    }

    @Override
    public String version() {
      return "1";
    }
  }
}
