//! Scenario tests, one module a subject, one function a sentence.
