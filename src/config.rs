//! What the operator wrote, turned into a [`Config`] in which every question is answered.
