//! Columns in the order of their groups (`desc_act` of GPTQ, `actorder` of compressed-tensors).

/// Groups of columns as a file lists them.
pub(super) enum Groups {
    /// Each after the other.
    InOrder,
    /// Sorted by group: which column comes first, second..., and of how many neighbours a group's parts are multiples.
    Sorted { order: Vec<u32>, unit: usize },
    /// A number that is no group, and its column.
    Wrong { group: i32, column: usize },
}

/// What a list of the columns' groups says, where `of` would be the group if they were in order.
pub(super) fn groups(list: &[i32], count: usize, of: impl Fn(usize) -> usize) -> Groups {
    // A packer that has no order to tell leaves -1 everywhere.
    if list.iter().all(|g| *g == -1) {
        return Groups::InOrder;
    }
    for (column, group) in list.iter().enumerate() {
        if usize::try_from(*group).map_or(true, |g| g >= count) {
            return Groups::Wrong {
                group: *group,
                column,
            };
        }
    }
    if list.iter().enumerate().all(|(i, g)| *g as usize == of(i)) {
        return Groups::InOrder;
    }
    let mut order: Vec<u32> = (0..list.len() as u32).collect();
    order.sort_by_key(|column| list[*column as usize]);
    let uniform = |len: &usize| {
        order
            .chunks(*len)
            .all(|c| c.iter().all(|i| list[*i as usize] == list[c[0] as usize]))
    };
    let unit = [128, 64, 32].into_iter().find(|len| uniform(len)).unwrap_or(1);
    Groups::Sorted { order, unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_order_and_others() {
        let of = |i| i / 32;
        let plain: Vec<i32> = (0..96).map(|i| i / 32).collect();
        assert!(matches!(groups(&plain, 3, of), Groups::InOrder));
        assert!(matches!(groups(&[-1; 96], 3, of), Groups::InOrder));
        let mixed: Vec<i32> = (0..96).map(|i| i % 3).collect();
        let Groups::Sorted { order, unit } = groups(&mixed, 3, of) else {
            panic!("sorted");
        };
        assert_eq!((unit, &order[..3], order[32]), (32, &[0, 3, 6][..], 1));
        let uneven: Vec<i32> = (0..96).map(|i| i32::from(i > 40 && i % 2 == 0)).collect();
        assert!(matches!(groups(&uneven, 3, of), Groups::Sorted { unit: 1, .. }));
        for wrong in [-1, 3] {
            let mut list = mixed.clone();
            list[7] = wrong;
            assert!(matches!(groups(&list, 3, of), Groups::Wrong { column: 7, .. }));
        }
    }
}
