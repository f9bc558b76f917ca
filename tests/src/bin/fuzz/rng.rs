//! Where the random choices come from: one number decides a round.

/// xorshift64*: good enough to choose bytes, and the same everywhere.
pub(crate) struct Rng(pub(crate) u64);
impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
    /// Bytes, as many as one of `sizes`.
    pub(crate) fn some(&mut self, sizes: &[usize]) -> Vec<u8> {
        let n = self.pick(sizes);
        self.bytes(n)
    }
    /// Values at the edges more often than in between.
    pub(crate) fn word(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => (1 << self.below(64)) - 1,
            4 => self.next() & 0xffff,
            _ => self.next(),
        }
    }
    /// Bends bytes here and there, cuts or lengthens.
    pub(crate) fn bend(&mut self, b: &mut Vec<u8>) {
        for _ in 0..self.below(6) {
            if b.is_empty() {
                break;
            }
            let at = if self.one_in(2) { self.below(b.len().min(64)) } else { self.below(b.len()) };
            match self.below(4) {
                0 => b[at] ^= 1 << self.below(8),
                1 => b[at] = self.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                2 => b[at] = self.next() as u8,
                _ => {
                    let w = (self.word() as u16).to_be_bytes();
                    b[at] = w[0];
                    if let Some(c) = b.get_mut(at + 1) {
                        *c = w[1];
                    }
                }
            }
        }
        match self.below(12) {
            0 => b.truncate(self.below(b.len() + 1)),
            1 => {
                let n = self.below(64);
                b.extend(self.bytes(n));
            }
            _ => {}
        }
    }
}
