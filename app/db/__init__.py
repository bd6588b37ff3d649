"""Tables and queries; every statement that reaches the database is in this package."""
