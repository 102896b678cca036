//! The dependency descriptor (AV1 RTP payload format, appendix A): which decode targets need a
//! frame, for any codec.

use super::layer_mask;

/// Most templates that a structure may have (six bits).
const MAX_TEMPLATES: usize = 64;
/// Decode target indications (appendix A.5): two bits each.
const NOT_PRESENT: u8 = 0;
const SWITCH: u8 = 2;

/// The template dependency structure, sent with key frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyStructure {
    template_offset: u8,
    templates: Vec<Template>,
    /// Highest spatial and temporal layer of each decode target.
    targets: Vec<(u8, u8)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    spatial: u8,
    temporal: u8,
    /// Indications, one for each decode target.
    indications: Vec<u8>,
}

/// A descriptor, with its structure applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyDescriptor {
    /// First packet of a frame.
    pub starts_frame: bool,
    /// Last packet of a frame.
    pub ends_frame: bool,
    /// Number of the frame.
    pub frame_number: u16,
    /// Spatial layer of the frame.
    pub spatial: u8,
    /// Temporal layer of the frame.
    pub temporal: u8,
    /// Receivers of lower temporal layers may begin to take this one.
    pub temporal_sync: bool,
    /// Pairs of layers that need the frame, as in [`super::PacketInfo::needed`].
    pub needed: u16,
    /// The structure, where this packet carries it.
    pub structure: Option<Box<DependencyStructure>>,
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.read(1)? == 1)
    }

    /// `ns(n)`: a value below `n` without waste.
    fn non_symmetric(&mut self, n: u32) -> Option<u32> {
        let width = 32 - n.leading_zeros();
        let short = (1u32 << width) - n;
        let value = self.read(width as usize - 1)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + self.read(1)?)
    }
}

impl DependencyStructure {
    /// Highest spatial layer.
    pub fn max_spatial(&self) -> u8 {
        self.templates.iter().map(|template| template.spatial).max().unwrap_or_default()
    }

    fn parse(bits: &mut Bits<'_>) -> Option<Self> {
        let template_offset = bits.read(6)? as u8;
        let target_count = bits.read(5)? as usize + 1;
        let mut templates = template_layers(bits)?;
        for template in &mut templates {
            for _ in 0..target_count {
                template.indications.push(bits.read(2)? as u8);
            }
        }
        for _ in &templates {
            while bits.flag()? {
                bits.read(4)?;
            }
        }
        skip_chains(bits, target_count, templates.len())?;
        if bits.flag()? {
            let highest = templates.iter().map(|template| template.spatial).max()?;
            for _ in 0..=highest {
                bits.read(32)?;
            }
        }
        let highest = |target: usize| {
            let present = |template: &&Template| template.indications[target] != NOT_PRESENT;
            let part_of = || templates.iter().filter(present);
            let spatial = part_of().map(|template| template.spatial).max().unwrap_or_default();
            let temporal = part_of().map(|template| template.temporal).max().unwrap_or_default();
            (spatial, temporal)
        };
        let targets = (0..target_count).map(highest).collect();
        Some(Self { template_offset, templates, targets })
    }

    /// The decode target that gives a receiver most of what it asks for.
    fn target(&self, spatial: u8, temporal: u8) -> Option<usize> {
        (0..self.targets.len())
            .filter(|&target| {
                self.targets[target].0 <= spatial && self.targets[target].1 <= temporal
            })
            .max_by_key(|&target| self.targets[target])
    }
}

fn template_layers(bits: &mut Bits<'_>) -> Option<Vec<Template>> {
    let (mut spatial, mut temporal, mut templates) = (0, 0, Vec::new());
    loop {
        templates.push(Template { spatial, temporal, indications: Vec::new() });
        match bits.read(2)? {
            0 => {}
            1 => temporal += 1,
            2 => (spatial, temporal) = (spatial + 1, 0),
            _ => return Some(templates),
        }
        if templates.len() == MAX_TEMPLATES {
            return None;
        }
    }
}

fn skip_chains(bits: &mut Bits<'_>, targets: usize, templates: usize) -> Option<()> {
    let chains = bits.non_symmetric(targets as u32 + 1)?;
    if chains > 0 {
        for _ in 0..targets {
            bits.non_symmetric(chains)?;
        }
        for _ in 0..templates * chains as usize {
            bits.read(4)?;
        }
    }
    Some(())
}

impl DependencyDescriptor {
    /// Reads a descriptor; `known` is the structure of the stream, which is needed where the
    /// descriptor carries none.
    pub fn parse(bytes: &[u8], known: Option<&DependencyStructure>) -> Option<Self> {
        let mut bits = Bits { bytes, at: 0 };
        let (starts_frame, ends_frame) = (bits.flag()?, bits.flag()?);
        let template = bits.read(6)? as u8;
        let frame_number = bits.read(16)? as u16;
        let mut structure = None;
        let mut has_own_indications = false;
        if bytes.len() > 3 {
            let has_structure = bits.flag()?;
            let has_active_targets = bits.flag()?;
            has_own_indications = bits.flag()?;
            bits.read(2)?;
            if has_structure {
                structure = Some(Box::new(DependencyStructure::parse(&mut bits)?));
            }
            if has_active_targets {
                let targets = structure.as_deref().or(known)?.targets.len();
                bits.read(targets)?;
            }
        }
        let applied = structure.as_deref().or(known)?;
        let index = (template + 64 - applied.template_offset) % 64;
        let template = applied.templates.get(usize::from(index))?;
        let mut own = Vec::new();
        if has_own_indications {
            for _ in 0..applied.targets.len() {
                own.push(bits.read(2)? as u8);
            }
        }
        let indications = if has_own_indications { &own } else { &template.indications };
        let (spatial, temporal) = (template.spatial, template.temporal);
        let indication = |s, t| applied.target(s, t).map(|target| indications[target]);
        let needed = layer_mask(|s, t| {
            // A receiver of fewer layers than any target has takes the smallest there is.
            indication(s, t).map_or(spatial <= s && temporal <= t, |dti| dti != NOT_PRESENT)
        });
        let temporal_sync = indication(spatial, temporal) == Some(SWITCH);
        Some(Self {
            starts_frame,
            ends_frame,
            frame_number,
            spatial,
            temporal,
            temporal_sync,
            needed,
            structure,
        })
    }
}
