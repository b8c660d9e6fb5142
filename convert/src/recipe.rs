//! Which role gets which quant type.
//!
//! A recipe is data with a name and a version; the same name and version stand for the same types
//! and the same bytes for ever, so a change here, or of how one of the types is quantised, is a new
//! version. Vectors (norms and biases) are `f32` in all of
//! them.
//!
//! | recipe | attention and feed-forward | keys | values | down | embeddings, output | bits per weight, 1B |
//! |---|---|---|---|---|---|---|
//! | `q3` | Q3 | Q4 | Q5 | Q4 | Q5 | 4.0 |
//! | `q4` | Q4 | Q5 | Q6 | Q4 | Q6 | 4.8 |
//! | `q4h` | Q4H | Q5 | Q6 | Q4H | Q6 | 5.0 |
//! | `q5` | Q5 | Q6 | Q6 | Q5 | Q6 | 5.5 |
//! | `q6` | Q6 | Q6 | Q8 | Q6 | Q6 | 6.3 |
//! | `q8`, `f16`, `bf16`, `f32` | that type | that type | that type | that type | that type | 8.3, 16, 16, 32 |
//!
//! The output matrix decides between the best tokens, and in small models it is the embedding
//! matrix too: 6 bits there cost a 1B model 66 MB more than 4 would. Values and keys are small where
//! query heads share them, and an error in them is worth several times that of another matrix
//! (docs/quantiser.md has the figures).

use std::{collections::BTreeMap, error::Error, fmt, str::FromStr};

use chaski_models::tensors::{Role, UnknownRole};
use chaski_quant::{QuantType, UnknownQuantType};
use serde::Serialize;

/// A quant type for each role that is a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    name: &'static str,
    version: u32,
    types: BTreeMap<Role, QuantType>,
    overrides: Vec<TypeOverride>,
    /// Types of single layers' matrices, where they differ from their role's.
    layers: BTreeMap<(Role, usize), QuantType>,
    /// What the types were chosen for, in words.
    target: Option<String>,
    /// How it was known what errors of a matrix matter when the types were chosen, in words.
    sensitivities: Option<String>,
}

/// A recipe as data.
struct Named {
    name: &'static str,
    version: u32,
    /// The layers' matrices, but for keys, values and down.
    layers: QuantType,
    keys: QuantType,
    values: QuantType,
    down: QuantType,
    /// Embeddings and output.
    ends: QuantType,
}

impl Named {
    const fn new(name: &'static str, version: u32, types: [QuantType; 4]) -> Self {
        let [layers, keys, values, ends] = types;
        Self {
            name,
            version,
            layers,
            keys,
            values,
            down: layers,
            ends,
        }
    }

    const fn with_down(self, down: QuantType) -> Self {
        Self { down, ..self }
    }

    const fn uniform(name: &'static str, version: u32, qtype: QuantType) -> Self {
        Self::new(name, version, [qtype; 4])
    }

    const fn qtype(&self, role: Role) -> QuantType {
        match role {
            Role::TokenEmbd | Role::Output => self.ends,
            Role::AttnK => self.keys,
            Role::AttnV => self.values,
            Role::FfnDown => self.down,
            _ => self.layers,
        }
    }
}

/// The recipes.
const RECIPES: [Named; 9] = {
    use QuantType::{BF16, F16, F32, Q3, Q4, Q4H, Q5, Q6, Q8};
    [
        Named::new("q3", 1, [Q3, Q4, Q5, Q5]).with_down(Q4),
        Named::new("q4", 2, [Q4, Q5, Q6, Q6]),
        Named::new("q4h", 2, [Q4H, Q5, Q6, Q6]),
        Named::new("q5", 2, [Q5, Q6, Q6, Q6]),
        Named::new("q6", 3, [Q6, Q6, Q8, Q6]),
        Named::uniform("q8", 2, Q8),
        Named::uniform("f16", 1, F16),
        Named::uniform("bf16", 1, BF16),
        Named::uniform("f32", 1, F32),
    ]
};

/// The version of the way in which types are chosen for a model.
const MIXED_VERSION: u32 = 3;

impl Recipe {
    /// The names of all recipes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RECIPES.iter().map(|r| r.name)
    }

    /// The recipe called `name`.
    pub fn named(name: &str) -> Result<Self, RecipeError> {
        let known = RECIPES.iter().find(|r| r.name.eq_ignore_ascii_case(name));
        let Some(known) = known else {
            return Err(RecipeError::Unknown {
                name: name.to_owned(),
            });
        };
        let matrices = Role::ALL.into_iter().filter(|role| !role.is_vector());
        let types = matrices.map(|role| (role, known.qtype(role))).collect();
        Ok(Self {
            name: known.name,
            version: known.version,
            types,
            overrides: Vec::new(),
            layers: BTreeMap::new(),
            target: None,
            sensitivities: None,
        })
    }

    /// A recipe with a type for every matrix; see [`allocate`](crate::allocate()).
    ///
    /// * `types`: of each role, and of each layer's matrix that has another type.
    /// * `target`: what they were chosen for.
    /// * `sensitivities`: how it was known what errors of each matrix matter.
    pub(crate) fn mixed(
        types: BTreeMap<Role, QuantType>,
        layers: BTreeMap<(Role, usize), QuantType>,
        target: String,
        sensitivities: String,
    ) -> Self {
        Self {
            name: "mixed",
            version: MIXED_VERSION,
            types,
            overrides: Vec::new(),
            layers,
            target: Some(target),
            sensitivities: Some(sensitivities),
        }
    }

    /// The recipe with other types for some roles. Two different ones for a role are an error: which of them was
    /// meant is not to be guessed.
    pub fn with_overrides(mut self, overrides: &[TypeOverride]) -> Result<Self, RecipeError> {
        for (i, &TypeOverride { role, qtype }) in overrides.iter().enumerate() {
            let mut earlier = self.overrides.iter().chain(&overrides[..i]);
            if let Some(other) = earlier.find(|o| o.role == role && o.qtype != qtype) {
                return Err(RecipeError::Twice {
                    role,
                    types: [other.qtype, qtype],
                });
            }
            match self.types.get_mut(&role) {
                Some(t) => *t = qtype,
                None => return Err(RecipeError::Vector { role }),
            }
        }
        self.overrides.extend(overrides);
        let (gate, up) = (self.types[&Role::FfnGate], self.types[&Role::FfnUp]);
        if gate != up {
            return Err(RecipeError::GateUp { gate, up });
        }
        Ok(self)
    }

    /// Its name, as a user types it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The type of each role that is a matrix.
    pub fn types(&self) -> &BTreeMap<Role, QuantType> {
        &self.types
    }

    /// What was changed, in the order given.
    pub fn overrides(&self) -> &[TypeOverride] {
        &self.overrides
    }

    /// What the types were chosen for, where they were chosen for this model: `--size 700MB`.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// How it was known what errors of each matrix matter, where the types were chosen for this model: `of
    /// roles`, or `of matrices, measured on 144 positions`.
    pub fn sensitivities(&self) -> Option<&str> {
        self.sensitivities.as_deref()
    }

    /// The type of a tensor of `role` in layer `layer`; `f32` of a vector.
    pub fn qtype_of(&self, role: Role, layer: Option<usize>) -> QuantType {
        let own = layer.and_then(|layer| self.layers.get(&(role, layer)));
        own.copied().unwrap_or_else(|| self.qtype(role))
    }

    /// The type of `role`, but for single layers ([`qtype_of`](Self::qtype_of)); `f32` of a vector.
    pub fn qtype(&self, role: Role) -> QuantType {
        self.types.get(&role).copied().unwrap_or(QuantType::F32)
    }
}

/// Another type for one role: `attn_v=q6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOverride {
    /// The role.
    pub role: Role,
    /// Its type.
    pub qtype: QuantType,
}

impl fmt::Display for TypeOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.role, self.qtype)
    }
}

impl Serialize for TypeOverride {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for TypeOverride {
    type Err = RecipeError;

    fn from_str(s: &str) -> Result<Self, RecipeError> {
        let Some((role, qtype)) = s.split_once('=') else {
            return Err(RecipeError::NoOverride { got: s.to_owned() });
        };
        Ok(Self {
            role: role.trim().parse().map_err(RecipeError::Role)?,
            qtype: qtype.trim().parse().map_err(RecipeError::Type)?,
        })
    }
}

/// Why there is no such recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecipeError {
    /// No recipe has this name.
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// An override that is not `ROLE=TYPE`.
    NoOverride {
        /// What was given.
        got: String,
    },
    /// An override of a role that does not exist.
    Role(UnknownRole),
    /// An override by a type that does not exist.
    Type(UnknownQuantType),
    /// An override of a role that is a vector.
    Vector {
        /// The role.
        role: Role,
    },
    /// Overrides of one role by different types.
    Twice {
        /// The role.
        role: Role,
        /// Its types, in the order given.
        types: [QuantType; 2],
    },
    /// Gate and up would have different types.
    GateUp {
        /// The type of `ffn_gate`.
        gate: QuantType,
        /// The type of `ffn_up`.
        up: QuantType,
    },
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                let names: Vec<_> = Recipe::names().collect();
                write!(
                    f,
                    "unknown recipe `{}`, expected one of {}",
                    name.escape_debug(),
                    names.join(", ")
                )
            }
            Self::NoOverride { got } => {
                write!(
                    f,
                    "`{}` is not of the form ROLE=TYPE, as attn_v=q6 is",
                    got.escape_debug()
                )
            }
            Self::Role(cause) => cause.fmt(f),
            Self::Type(cause) => cause.fmt(f),
            Self::Vector { role } => write!(f, "`{role}` is a vector, which is always f32"),
            Self::Twice {
                role,
                types: [first, second],
            } => write!(
                f,
                "`{role}` is to be {first} and {second}: expected one type for a role"
            ),
            Self::GateUp { gate, up } => write!(
                f,
                "ffn_gate would be {gate} and ffn_up {up}: their tiles alternate in the file and need one type"
            ),
        }
    }
}

impl Error for RecipeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quant_type_is_a_recipe_whose_layers_have_it() {
        for qtype in QuantType::ALL {
            let recipe = Recipe::named(qtype.name()).unwrap();
            assert_eq!(recipe.qtype(Role::FfnUp), qtype);
            assert!(recipe.qtype(Role::Output).bits_per_weight() >= qtype.bits_per_weight());
            assert_eq!(recipe.qtype(Role::AttnNorm), QuantType::F32);
            assert_eq!(recipe.qtype(Role::TokenEmbd), recipe.qtype(Role::Output));
            for role in [Role::AttnK, Role::AttnV, Role::FfnDown] {
                let bits = |role| recipe.qtype(role).bits_per_weight();
                assert!(bits(role) >= bits(Role::AttnQ), "{qtype}: {role}");
            }
        }
        assert_eq!(Recipe::names().count(), QuantType::ALL.len());
        assert!(
            Recipe::named("q2")
                .unwrap_err()
                .to_string()
                .contains("q3, q4, q4h")
        );
    }

    #[test]
    fn overrides_change_their_role_only() {
        let o = |s: &str| s.parse::<TypeOverride>().unwrap();
        let q4 = Recipe::named("q4").unwrap();
        let recipe = q4
            .clone()
            .with_overrides(&[o("attn_v=q6"), o("output=Q8")])
            .unwrap();
        assert_eq!(recipe.qtype(Role::AttnV), QuantType::Q6);
        assert_eq!(recipe.qtype(Role::Output), QuantType::Q8);
        assert_eq!(recipe.qtype(Role::AttnQ), QuantType::Q4);
        assert_eq!(recipe.overrides()[1].to_string(), "output=q8");

        let both = q4
            .clone()
            .with_overrides(&[o("ffn_up=q5"), o("ffn_gate=q5")])
            .unwrap();
        assert_eq!(both.qtype(Role::FfnGate), QuantType::Q5);
        let err = q4.clone().with_overrides(&[o("ffn_up=q5")]).unwrap_err();
        assert_eq!(
            err,
            RecipeError::GateUp {
                gate: QuantType::Q4,
                up: QuantType::Q5
            }
        );
        let twice = [o("attn_v=q6"), o("attn_q=q5"), o("attn_v=q8")];
        let err = q4.clone().with_overrides(&twice).unwrap_err();
        assert_eq!(
            err.to_string(),
            "`attn_v` is to be q6 and q8: expected one type for a role"
        );
        let once = q4.clone().with_overrides(&[o("attn_v=q6"); 2]).unwrap();
        assert_eq!(once.qtype(Role::AttnV), QuantType::Q6);
        assert!(once.with_overrides(&[o("attn_v=q8")]).is_err());
        let err = q4.with_overrides(&[o("attn_norm=f16")]).unwrap_err();
        assert!(err.to_string().contains("attn_norm"), "{err}");
        for (bad, says) in [
            ("attn_v", "ROLE=TYPE"),
            ("attn=q4", "`attn`"),
            ("attn_v=q9", "`q9`"),
        ] {
            let err = bad.parse::<TypeOverride>().unwrap_err().to_string();
            assert!(err.contains(says), "{err}");
        }
    }
}
