package io.confluent.connect.jdbc.util;

/**
 * The JDBC connectors' interface of this name, to compile against without them. It does not go into
 * the jar: the connector brings its own.
 */
public interface JdbcCredentials {
  /** The name to log in with. */
  String getUsername();

  /** The password to log in with. */
  String getPassword();
}
